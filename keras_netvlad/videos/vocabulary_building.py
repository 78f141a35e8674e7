"""`build_vocabulary`: clusters the features of a folder of pictures and videos, to describe other ones."""

import json
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keras_netvlad._version import __version__
from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.base.stages import stage as named_stage
from keras_netvlad.base.validation import check_integer, check_path
from keras_netvlad.base.video_decoding import UnreadableVideoError
from keras_netvlad.data.video import check_fps, check_seconds
from keras_netvlad.videos.encoder_file import EncoderFile
from keras_netvlad.videos.features_folder import ENCODER_FILE
from keras_netvlad.videos.picture_encoder import check_backbone, make_frame_encoder, picture_encoder_of
from keras_netvlad.videos.predict import HIGHEST_FPS
from keras_netvlad.videos.read_ahead import read_ahead
from keras_netvlad.videos.vocabulary import FORMAT, STREAM, VOCABULARY_FILE, Vocabulary, find_media, frame_batches

# k-means takes at most this many features for each cluster, as `adapt` does.
FEATURES_PER_CLUSTER = 256


def build_vocabulary(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    backbone: str | os.PathLike[str] = "MobileNetV2",
    weights: str | os.PathLike[str] | None = "imagenet",
    size: int = 224,
    layer: str | None = None,
    num_clusters: int = 32,
    fps: float | None = 1,
    max_seconds: float | None = None,
    sample_size: int | None = None,
    seed: int = 0,
    progress: Callable[[str, Exception | None], object] | None = None,
) -> Vocabulary:
    """Builds a vocabulary: cosine k-means of the features of pictures and videos, without labels and training.

    AnyLoc describes places with the patches of a vision transformer such as DINOv2 and hard-assigned VLAD, whose
    centroids come from k-means on pictures of the same kind of place. The features are sampled uniformly while the
    files are read, so memory does not grow with the folder.

    `output` receives

    - `encoder.onnx`: from pictures to maps; `accumulate.onnx` and `describe.onnx`: from maps to the descriptor of a
      video of any length. `Vocabulary` runs them;
    - `model.keras`: the model of videos from pixels. `keras-netvlad export` writes it in other formats, also as a model
      of single pictures (`--layout`);
    - `vocabulary.json`: backbone, layer, data, numbers of files, frames and features, seed, and a digest of each file.

    The ONNX files are compared with the Keras model. The directory appears when it is complete. Needs PyAV and
    scikit-learn: `pip install 'keras_netvlad[video]'`.

    Args:
        folder: Directory that is searched, with its subdirectories, for pictures and videos.
        output: Directory to write. It must not exist.
        backbone: See `keras_netvlad.videos.picture_encoder.make_frame_encoder`. It must return maps or tokens.
        weights: See `make_frame_encoder`.
        size: Integer, height and width of the pictures, cropped to a square.
        layer: Name of the layer of the backbone whose output is used, see `keras_netvlad.layers.FrameEncoder`; or
            `None` for the last one.
        num_clusters: Integer, `K`. A descriptor has `K * D` values.
        fps: Number of frames per second of a video, or `None` for every frame.
        max_seconds: Seconds to read from the beginning of each video, or `None` for whole videos.
        sample_size: Integer, number of features to cluster, which are held in memory. The default is 256 per cluster.
        seed: Integer of 0 or more, for the sample and k-means.
        progress: Function of the name of a file and its error or `None`, called after each file; or `None`.

    Returns:
        The `Vocabulary`. Files that cannot be read are left out; `num_files` in its `provenance` counts the others.

    Example:

    >>> import os, tempfile
    >>> import av, numpy as np
    >>> from keras_netvlad.videos import build_vocabulary
    >>> folder = tempfile.mkdtemp()
    >>> for name in ("one.png", "two.png"):
    ...     pixels = np.random.default_rng(len(os.listdir(folder))).integers(0, 256, (64, 64, 3), "uint8")
    ...     with av.open(os.path.join(folder, name), "w", format="image2") as file:
    ...         stream = file.add_stream("png")
    ...         stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
    ...         file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    >>> output = os.path.join(folder, "vocabulary")
    >>> vocabulary = build_vocabulary(
    ...     folder, output, "MobileNet", weights=None, size=64, layer="conv_pw_1_relu", num_clusters=2
    ... )
    >>> vocabulary.provenance["num_features"], vocabulary.descriptor(os.path.join(folder, "one.png")).shape
    (2048, (128,))

    Raises:
        ValueError: If an argument is invalid, the folder holds too few features, or the backbone cannot be made or
            returns neither maps nor tokens.
        TypeError: If `folder`, `output` or `backbone` is not a path.
        NotADirectoryError: If `folder` is not a directory.
        FileExistsError: If `output` exists.
        ParityError: If an ONNX file does not compute what the model computes. Nothing is written.

    Reference:
        - [Keetha et al. 2023](https://arxiv.org/abs/2308.00688), AnyLoc: Towards Universal Visual Place Recognition.
    """
    from keras_netvlad.export import export_onnx
    from keras_netvlad.layers import VLAD
    from keras_netvlad.layers.kmeans import import_kmeans
    from keras_netvlad.models import VideoEncoder, from_pixels

    folder, output = check_path("folder", folder), check_path("output", output)
    backbone = os.fspath(check_path("backbone", backbone))
    check_backbone(backbone)
    size, num_clusters = check_integer("size", size, 1), check_integer("num_clusters", num_clusters, 1)
    seed = check_integer("seed", seed, 0)
    check_fps(fps)
    if fps is not None and fps > HIGHEST_FPS:
        raise ValueError(f"`fps` must be at most {HIGHEST_FPS}, or None for every frame. Received: fps={fps}")
    max_seconds = check_seconds(max_seconds)
    import_kmeans()  # before any file is read
    names = find_media(folder)
    with staged(output) as stage:
        stage.mkdir()
        with named_stage("exporting the encoder"):
            encoder = make_frame_encoder(backbone, weights, size, layer)
            *map_shape, feature_size = encoder.compute_output_shape((None, 1, size, size, 3))[2:]
            if not map_shape:
                raise ValueError(
                    "`backbone` must return a map or tokens, of which a vocabulary is made; choose an earlier `layer`. "
                    f"Received: {backbone} with layer={layer!r}, which returns one feature vector per picture"
                )
            export_onnx(picture_encoder_of(encoder), stage / ENCODER_FILE, metadata={"backbone": backbone})
        pooling = VLAD(num_clusters, normalize_input=True, distance="cosine", name="vlad")
        frames = _Frames(folder, names, EncoderFile(stage / ENCODER_FILE), fps, max_seconds, progress)
        pooling.adapt(frames.maps(), sample_size=sample_size, seed=seed, verbose=0)
        pooled = VideoEncoder({STREAM: feature_size}, pooling=pooling, name="vocabulary")
        with named_stage("exporting the vocabulary"):
            for signature in ("accumulate", "describe"):
                export_onnx(pooled, stage / f"{signature}.onnx", signature=signature)
            pixels = from_pixels(encoder, pooled, name="vocabulary")
            pixels.save(stage / "model.keras")
        is_file = os.path.isfile(backbone)
        limit = FEATURES_PER_CLUSTER * num_clusters if sample_size is None else sample_size
        provenance = {
            "format": FORMAT,
            "backbone": os.path.basename(backbone) if is_file else backbone,
            "backbone_digest": file_digest(backbone) if is_file else None,
            "weights": str(weights),
            "layer": layer,
            "size": size,
            "fps": None if fps is None else float(fps),
            "max_seconds": max_seconds,
            "data": os.path.abspath(folder),
            "num_files": frames.num_files,
            "num_frames": frames.num_frames,
            "num_features": frames.num_features,
            "num_sampled": min(frames.num_features, limit),
            "num_clusters": num_clusters,
            "seed": seed,
            "versions": {"keras_netvlad": __version__, "keras": version("keras")},
            "files": {path.name: file_digest(path) for path in sorted(stage.glob("*.onnx"))},
        }
        text = json.dumps(provenance, indent=1, ensure_ascii=False)
        (stage / VOCABULARY_FILE).write_text(text + "\n", encoding="utf-8")
    return Vocabulary(output)


class _Frames:
    """The maps of the frames of pictures and videos, read one batch at a time, and their numbers so far."""

    def __init__(
        self,
        folder: Path,
        names: list[str],
        encoder: EncoderFile,
        fps: float | None,
        max_seconds: float | None,
        progress: Callable[[str, Exception | None], object] | None,
    ) -> None:
        self.folder, self.names, self.encoder = folder, names, encoder
        self.fps, self.max_seconds, self.progress = fps, max_seconds, progress
        self.num_files = self.num_frames = self.num_features = 0

    def maps(self) -> Iterator[Any]:
        """Yields maps `(n, H, W, D)`. A file that cannot be read is reported and left out from its damaged place on."""
        for name in self.names:
            error: Exception | None = None
            batches = frame_batches(self.folder / name, self.encoder.size, self.fps, self.max_seconds)
            try:
                for frames in read_ahead(batches):
                    self.num_frames += len(frames)
                    self.num_features += len(frames) * self.encoder.positions
                    yield self.encoder.encode(frames)
            except (UnreadableVideoError, OSError) as problem:
                error = problem
            self.num_files += error is None
            if self.progress is not None:
                self.progress(name, error)
