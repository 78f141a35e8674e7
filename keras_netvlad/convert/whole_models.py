"""`convert_model`: turns a checkpoint of another package into a complete model of this one."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import keras

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.validation import check_choice, check_path
from keras_netvlad.convert.keras2_files import is_hdf5, read_keras2
from keras_netvlad.convert.networks.keras2_models import is_keras2, keras2
from keras_netvlad.convert.networks.matlab_places import matlab_places
from keras_netvlad.convert.networks.nextvlad import is_nextvlad, nextvlad
from keras_netvlad.convert.networks.pytorch_places import is_pytorch_places, pytorch_places
from keras_netvlad.convert.networks.soccernet import is_soccernet, soccernet
from keras_netvlad.convert.networks.speaker import is_speaker, speaker
from keras_netvlad.convert.networks.tensors import Tensors
from keras_netvlad.convert.networks.willow import is_willow, willow
from keras_netvlad.convert.networks.youtube8m import weights_of_checkpoint
from keras_netvlad.convert.networks.youtube8m_moe import is_youtube8m_moe, youtube8m_moe
from keras_netvlad.convert.tensor_files import Readers, listed, read_checkpoint, read_tensors, read_torch

Form: TypeAlias = Literal["keras2", "matlab", "nextvlad", "pytorch", "soccernet", "speaker", "willow", "youtube8m"]


class Family(NamedTuple):
    """A family of checkpoints: its description, how to recognize its tensors, and how to build its model."""

    description: str
    is_meant: Callable[[Tensors], bool]
    build: Callable[[Tensors], keras.Model]


FAMILIES: dict[str, Family] = {
    "keras2": Family("A model of Keras 2", is_keras2, keras2),
    "nextvlad": Family("A checkpoint of NeXtVLAD", is_nextvlad, nextvlad),
    "pytorch": Family("A place recognition checkpoint of PyTorch", is_pytorch_places, pytorch_places),
    "soccernet": Family("A checkpoint of SoccerNet", is_soccernet, soccernet),
    "speaker": Family("The speaker recognition of VGG", is_speaker, speaker),
    "willow": Family("A checkpoint of WILLOW", is_willow, willow),
    "youtube8m": Family("A checkpoint of Google's mixture of experts", is_youtube8m_moe, youtube8m_moe),
}
FORMS = tuple(sorted(["matlab", *FAMILIES]))
# Suffixes of PyTorch's files. Other files are looked at.
TORCH_SUFFIXES = (".pth", ".pt", ".tar")
HDF5_SUFFIXES = (".h5", ".hdf5")
# Trees of optimizers in checkpoints of PyTorch, and counters that no network uses in inference.
TORCH_STATE = ("optimizer.", "optimizer_state_dict.", "scheduler.")
TORCH_TREES = ("state_dict.", "model_state_dict.", "model.")
COUNTER = ".num_batches_tracked"
# torch.save() writes a ZIP archive, and wrote a pickle before PyTorch 1.6.
TORCH_MAGIC = (b"PK", b"\x80")


def convert_model(source: str | os.PathLike[str] | Mapping[str, Any], form: Form | None = None) -> keras.Model:
    """Turns a complete checkpoint of another package into a Keras model that computes the same numbers.

    - `"keras2"`: A model of Keras 2 that contains the NetVLAD of cartwheel, NHGJem, crlz182 or TensorFlow Addons, a
      whole-model `.h5` file; or the weights of crlz182's VGG16-NetVLAD. The other layers must be layers of Keras.
    - `"matlab"`: VGG16-NetVLAD of Arandjelović et al. with or without whitening, a `.mat` file whose layers are
      structs, as hloc downloads it. A model of pictures.
    - `"pytorch"`: Nanne's pytorch-NetVlad, Patch-NetVLAD (with or without its principal components) and gmberton's
      benchmark (with or without a linear layer), with VGG16, AlexNet or ResNet. A model of pictures.
    - `"soccernet"`: NetVLAD, NetRVLAD, NetVLAD++ and NetRVLAD++ of SoccerNet. A model of windows of frame features.
    - `"speaker"`: The speaker recognition of VGG (Xie et al. 2019), a thin ResNet with GhostVLAD or NetVLAD, a `.h5`
      file of its weights. A model of `spectrograms` `(B, 257, T, 1)`.
    - `"willow"`: WILLOW's and Skalic & Austin's NetVLAD, NetRVLAD (LightVLAD), NetFV, Gated Soft-DBoW and Soft-DBoW
      (TensorFlow 1). A `VideoClassifier` of `rgb` and `audio`, the preset if the settings are those of the authors.
    - `"nextvlad"`: `NeXtVLADModel` of Lin et al. (TensorFlow 1). A `VideoClassifier` of `rgb` and `audio`, the preset
      `nextvlad` in the checkpoint's sizes.
    - `"youtube8m"`: `MoeModel` of google/youtube-8m at video level. A `VideoClassifier` of `rgb`, `audio` or both, the
      preset `youtube8m_moe`.

    A model of pictures takes `images`, `uint8` RGB `(B, H, W, 3)` of any size, and returns `descriptor`. The
    preprocessing is part of it. It resizes nothing, so give it pictures of the size on which the network was trained. A
    picture that is too small for the backbone gives NaN. A whole model of Keras 2 takes the inputs of its file, and
    returns `descriptor` in the order of its file.

    Each tensor of the file must belong to exactly one weight of the network; the state of optimizers is left out, and
    moving averages of the weights (`ExponentialMovingAverage`) replace the weights. Nothing in a file is executed.

    Args:
        source: Path of a `.mat`, `.pth`, `.h5` or `.npz` file, or prefix of a TensorFlow checkpoint; or a mapping of
            names to tensors or arrays, which may be nested.
        form: The kind of checkpoint, or `None` to recognize it by the file and the names of its tensors.

    Returns:
        A `keras.Model`. Save it as `.keras`, or export it.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import convert_model
    >>> rng = np.random.default_rng(0)
    >>> model = convert_model({
    ...     "pool_layer.clusters": rng.normal(size=(512, 8)),
    ...     "pool_layer.clusters2": rng.normal(size=(1, 512, 8)),
    ...     "fc.weight": rng.normal(size=(18, 4096)),
    ...     "fc.bias": np.zeros(18),
    ... })
    >>> model.output["scores"].shape
    (None, 18)

    Raises:
        ValueError: If the form is unknown or cannot be recognized, tensors are missing or unknown, shapes do not fit,
            or the file is damaged or needs code.
        FileNotFoundError: If the file does not exist.
        ImportError: If a library that reads the file is not installed.
        TypeError: If `source` is neither a path nor a mapping, or a tensor does not contain numbers.
    """
    if form is not None:
        check_choice("form", form, FORMS)
    if form == "matlab" or (form is None and _suffix(source) == ".mat"):
        return matlab_places(source)
    tensors = _tensors(source)
    found = [name for name, family in FAMILIES.items() if family.is_meant(tensors)]
    if form is None and len(found) != 1:
        raise ValueError(
            f"The checkpoint must be of one of the forms {', '.join(FORMS)}; give the form, or convert the NetVLAD "
            f"alone with one of the other functions of `keras_netvlad.convert`. Received: {listed(tensors.names)}"
        )
    family = FAMILIES[form or found[0]]
    tensors.form = family.description
    return family.build(tensors)


def convert_file(
    source: str | os.PathLike[str], output: str | os.PathLike[str], form: Form | None = None
) -> keras.Model:
    """Converts a checkpoint as `convert_model` does, and saves the model.

    Args:
        source: Path of the checkpoint.
        output: Path of the `.keras` file to write. It must not exist.
        form: The kind of checkpoint, or `None` to recognize it.

    Returns:
        The model that was saved.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_netvlad.convert import convert_file
    >>> weights = {"pool_layer.clusters": np.ones((4, 2)), "fc.weight": np.ones((3, 8)), "fc.bias": np.zeros(3)}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     np.savez(os.path.join(directory, "weights.npz"), **weights)
    ...     model = convert_file(os.path.join(directory, "weights.npz"), os.path.join(directory, "model.keras"))
    ...     sorted(os.listdir(directory))
    ['model.keras', 'weights.npz']

    Raises:
        FileExistsError: If the output exists.
        ValueError: If the output does not end in `.keras`, or as for `convert_model`.
        FileNotFoundError: If the file, or the directory of the output, does not exist.
        ImportError: As for `convert_model`.
        TypeError: As for `convert_model`, or if `output` is not a path.
    """
    target = check_path("output", output)
    if target.suffix != ".keras":
        raise ValueError(f"The output must be a file that ends in .keras. Received: {target}")
    if target.exists():
        raise FileExistsError(f"The output must not exist; remove it or choose another name. Received: {target}")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"The output must be in an existing directory; create it. Received: {target}")
    model = convert_model(source, form)
    with replaced(target, ".keras") as part:
        model.save(part)
    return model


def _suffix(source: Any) -> str:
    return Path(source).suffix if isinstance(source, (str, os.PathLike)) else ""


def _tensors(source: Any) -> Tensors:
    """Opens a checkpoint."""
    if isinstance(source, (str, os.PathLike)) and (_suffix(source) in HDF5_SUFFIXES or is_hdf5(Path(source))):
        file = read_keras2(Path(source))
        return Tensors(file.readers, "", file.config, file.layers, file.largest)
    return Tensors(_readers(source), "")


def _readers(source: Any) -> Readers:
    """Opens a checkpoint and returns its weights by the names that they have in the published network."""
    torch_readers = dict.fromkeys(TORCH_SUFFIXES, read_torch)
    expected = "a .mat, .pth, .h5 or .npz file, the prefix of a TensorFlow checkpoint, or a mapping of names to tensors"
    readers = read_tensors(source, {**torch_readers, "": _read_torch_or_tensorflow}, expected)
    if any("/" in name for name in readers):
        return weights_of_checkpoint({name.removesuffix(":0"): read for name, read in readers.items()})
    weights = {}
    for name, read in readers.items():
        if name.startswith(TORCH_STATE) or name.endswith(COUNTER):
            continue
        for tree in TORCH_TREES:
            name = name.removeprefix(tree)
        # nn.DataParallel adds a level of this name.
        weights[".".join(part for part in name.split(".") if part != "module")] = read
    return weights


def _read_torch_or_tensorflow(path: Path) -> Readers:
    """Opens a file of any other name: a TensorFlow checkpoint, or else a file of PyTorch."""
    if not path.is_file() or path.suffix in (".index", ".meta"):
        return read_checkpoint(path)
    with open(path, "rb") as file:
        if not file.read(4).startswith(TORCH_MAGIC):
            raise ValueError(
                "A checkpoint must be a .mat, .pth, .h5 or .npz file, or the prefix of a TensorFlow checkpoint. "
                f"Received: {path}, a file of another kind"
            )
    return read_torch(path)
