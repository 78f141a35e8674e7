"""`from_tfa`: NetVLAD of TensorFlow Addons."""

from keras_netvlad.convert.arrays import as_numbers, from_arrays
from keras_netvlad.convert.tensor_files import find_scope, listed, read_checkpoint, read_h5, read_tensors

# What `tensorflow_addons.layers.NetVLAD` regularizes its assignment with.
KERNEL_L2 = 1e-5
# Under Keras 3 the inner Dense is never built, and a SavedModel numbers its weights.
SAVE_WITH_KERAS_2 = "save the weights as .h5 with TensorFlow 2.15 or older, whose Keras is 2"


def from_tfa(source, *, layer_name=None, negated=False, normalize_input=False, layer=None, **options):
    """Reads a `tensorflow_addons.layers.NetVLAD`, which Keras 3 can no longer save or load.

    The descriptor of TensorFlow Addons is feature-major, this package's cluster-major: pass the kernel of the layer
    that takes it through `reorder_rows`.

    Args:
        source: Path of a `.h5` file that Keras 2 wrote, weights or whole model (of a `.keras` file, unzip
            `model.weights.h5`); prefix of the TensorFlow checkpoint that `save_weights` writes without `.h5`; path of
            a `.npz` file or a mapping, with names that end in `cluster_centers`, `kernel` and `bias`; or the list
            of the layer's `get_weights()`.
        layer_name: String, the name of the layer in the file, needed only if there are several.
        negated: Boolean, whether the file stores `-c`, as forks with `x + C` do.
        normalize_input: Boolean, whether the model scales each descriptor to unit L2 norm before the layer.
        layer: `NetVLAD` that gets the weights, or `None` to make one.
        **options: For a new layer, other arguments of `NetVLAD`. By default its kernel has the peer's L2
            regularizer of 1e-5.

    Returns:
        The `NetVLAD`, built, with `use_bias=True` and, if new, a dense assignment.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.convert import from_tfa
    >>> rng = np.random.default_rng(0)
    >>> centers, kernel, bias = rng.normal(size=(1, 64, 8)), rng.normal(size=(64, 8)), np.zeros(8)
    >>> from_tfa({"cluster_centers": centers, "dense/kernel": kernel, "dense/bias": bias}).num_clusters
    8

    Raises:
        ValueError: If the file is damaged, lacks a tensor (a file that Keras 3 wrote lacks the assignment), holds
            several NetVLADs and no `layer_name` says which, or as `from_arrays`.
        FileNotFoundError: If there is no such file.
        ImportError: If h5py is not installed.
        TypeError: As `from_arrays`.
    """
    if layer is None:
        options.setdefault("kernel_regularizer", {"class_name": "L2", "config": {"l2": KERNEL_L2}})
    if isinstance(source, (list, tuple)):
        source = _named(source)
    tensors = read_tensors(
        source,
        {".h5": read_h5, ".hdf5": read_h5, ".keras": None, "": read_checkpoint},
        "a Keras 2 .h5 file (unzip model.weights.h5 from a .keras file), a TensorFlow checkpoint, a .npz file, a "
        "mapping or get_weights()",
    )
    # Keras 2 optimizers keep moments under the names of the weights.
    tensors = {_weight_name(name, tensors): read for name, read in tensors.items() if not name.startswith("optimizer")}
    scope, _ = find_scope(tensors, [("cluster_centers",)], "/", layer_name, "layer_name", remedy=SAVE_WITH_KERAS_2)
    centers = as_numbers("cluster_centers", tensors[scope + "cluster_centers"]())
    kernel = as_numbers("kernel", _only(tensors, scope, "kernel")())
    bias = as_numbers("bias", _only(tensors, scope, "bias")())
    if centers.ndim != 3 or centers.shape[0] != 1:
        raise ValueError(
            "`cluster_centers` of TensorFlow Addons must be of shape (1, features, clusters); use `from_arrays` for "
            f"another layout. Received: shape {centers.shape}"
        )
    return from_arrays(
        kernel, centers[0].T, bias, negated=negated, normalize_input=normalize_input, layer=layer, **options
    )


def _weight_name(name, names):
    """The name in a `.h5` file of Keras 2 that another file's name stands for."""
    scope, _, number = name.rpartition("vars/")
    if number == "0" and f"{scope}fc/vars/0" in names:  # a .weights.h5 of Keras 2.12 to 2.15 numbers the weights
        return scope + "cluster_centers"
    if scope.endswith("fc/") and number in ("0", "1"):
        return scope + ("kernel", "bias")[int(number)]
    return name.removesuffix(":0")


def _only(tensors, scope, name):
    """The assignment lies in a sub-layer of whatever name: `dense`, `dense_1`, `fc`."""
    found = [n for n in tensors if n.startswith(scope) and n.removeprefix(scope).split("/")[-1] == name]
    if len(found) != 1:
        raise ValueError(
            f"The NetVLAD of TensorFlow Addons must have one {name} of its assignment; {SAVE_WITH_KERAS_2}. "
            f"Received: {listed(found or tensors)}"
        )
    return tensors[found[0]]


def _named(weights):
    """`get_weights()` has no names; ranks tell them apart."""
    ranks = {3: "cluster_centers", 2: "dense/kernel", 1: "dense/bias"}
    shapes = [getattr(weight, "shape", None) for weight in weights]
    named = {ranks.get(len(shape)) if shape is not None else None: w for shape, w in zip(shapes, weights, strict=True)}
    if len(weights) != 3 or set(named) != set(ranks.values()):
        raise ValueError(
            "`get_weights()` of TensorFlow Addons' NetVLAD must be cluster_centers (1, D, K), kernel (D, K) and bias "
            f"(K,); call the layer once before. Received: shapes {shapes}"
        )
    return named
