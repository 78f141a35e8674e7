"""`Vocabulary`: descriptors of pictures and videos from a vocabulary that `build_vocabulary` wrote."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.names import DESCRIPTOR, NUM_FRAMES
from keras_netvlad.base.validation import check_path
from keras_netvlad.base.video_decoding import UnreadableVideoError, decode, frame_rate, sample, to_array
from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.videos.encoder_file import EncoderFile
from keras_netvlad.videos.features_folder import ENCODER_FILE
from keras_netvlad.videos.predict import SETTINGS
from keras_netvlad.videos.predict import SUFFIXES as VIDEO_SUFFIXES
from keras_netvlad.videos.read_ahead import read_ahead

VOCABULARY_FILE, STREAM = "vocabulary.json", "rgb"
PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMAT = 1
# Number of frames that are encoded at once.
BATCH_SIZE = 32
FILES = (ENCODER_FILE, "accumulate.onnx", "describe.onnx")
PROVENANCE = {
    "format": int,
    "backbone": str,
    "backbone_digest": (str, None),
    "weights": str,
    "layer": (str, None),
    "size": int,
    "fps": (float, None),
    "max_seconds": (float, None),
    "data": str,
    "num_files": int,
    "num_frames": int,
    "num_features": int,
    "num_sampled": int,
    "num_clusters": int,
    "seed": int,
    "files": dict.fromkeys(FILES, str),
}


class Vocabulary:
    """Computes descriptors of pictures and videos: hard-assigned VLAD of the map of each frame, without any training.

    A video of any length needs constant memory, because the sums over its frames are additive. Needs neither Keras nor
    TensorFlow.

    Args:
        directory: Directory that `build_vocabulary` wrote.

    Attributes:
        provenance: Dict of what made the vocabulary: the backbone, its layer, the data, numbers of files, frames and
            features, the seed.
        source: Dict of the digests of the vocabulary and its encoder, for `DescriptorIndex.check_source`.

    Example:

    >>> from keras_netvlad.videos import Vocabulary
    >>> try:
    ...     Vocabulary("no/such/vocabulary")
    ... except FileNotFoundError as error:
    ...     print(error)
    A vocabulary is a directory that `keras-netvlad vocabulary` writes.
    Received: no/such/vocabulary, without vocabulary.json

    Raises:
        TypeError: If `directory` is not a path.
        FileNotFoundError: If a file of the vocabulary is missing.
        ValueError: If a file is damaged, or is not of this vocabulary, such as the encoder of another backbone.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = check_path("directory", directory)
        self.provenance = self._read_provenance()
        for name in FILES:
            self._check_file(name, self.provenance["files"][name])
        self._encoder = EncoderFile(self.directory / ENCODER_FILE)
        if self._encoder.size != self.provenance["size"]:
            raise self._damaged(f"its size {self.provenance['size']} is not that of the encoder, {self._encoder.size}")
        self._accumulate, self._describe = self._open("accumulate.onnx"), self._open("describe.onnx")
        self.source = {
            "model": file_digest(self.directory / VOCABULARY_FILE),
            "encoder": self.provenance["files"][ENCODER_FILE],
        }

    def descriptor(self, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Returns the descriptor `(F,)` of a picture or of a whole video.

        Raises:
            UnreadableVideoError: If the file is neither a picture nor a complete video.
            OSError: If the file cannot be read.
        """
        settings = self.provenance
        names = [port.name for port in self._accumulate.get_outputs()]
        past = {port.name: port.shape for port in self._accumulate.get_inputs() if port.name.startswith("past.")}
        sums = [
            np.zeros([side if isinstance(side, int) else 1 for side in past[f"past.{name}"]], "float32")
            for name in names
        ]
        for frames in read_ahead(frame_batches(path, settings["size"], settings["fps"], settings["max_seconds"])):
            features = self._encoder.encode(frames).reshape(1, -1, self._encoder.feature_size)
            inputs = {STREAM: features, NUM_FRAMES: np.array([features.shape[1]], "int32")}
            inputs |= {f"past.{name}": value for name, value in zip(names, sums, strict=True)}
            sums = self._accumulate.run(names, inputs)
        return self._describe.run([DESCRIPTOR], dict(zip(names, sums, strict=True)))[0][0]

    def index(
        self,
        folder: str | os.PathLike[str],
        progress: Callable[[str, Exception | None], object] | None = None,
    ) -> DescriptorIndex:
        """Returns an index of the descriptors of all pictures and videos in a folder.

        Args:
            folder: Directory that is searched, with its subdirectories, for pictures and videos.
            progress: Function of the name of a file and its error or `None`, called after each file; or `None`.

        Returns:
            A `DescriptorIndex` whose ids are the paths within the folder, and whose `source` has the digests of the
            vocabulary and its path. Files that cannot be read are left out.

        Raises:
            NotADirectoryError: If `folder` is not a directory.
            ValueError: If it holds no picture and no video.
        """
        folder = check_path("folder", folder)
        index = DescriptorIndex({**self.source, "vocabulary": os.path.abspath(self.directory)})
        for name in find_media(folder):
            error: Exception | None = None
            try:
                index.add([name], self.descriptor(folder / name)[None])
            except (UnreadableVideoError, OSError) as problem:
                error = problem
            if progress is not None:
                progress(name, error)
        return index

    def _read_provenance(self) -> dict[str, Any]:
        path = self.directory / VOCABULARY_FILE
        if not path.is_file():
            raise FileNotFoundError(
                "A vocabulary is a directory that `keras-netvlad vocabulary` writes. "
                f"Received: {self.directory}, without {VOCABULARY_FILE}"
            )
        try:
            provenance = read_json_object(path, PROVENANCE)
            if provenance["format"] != FORMAT:
                raise ValueError(f"format {provenance['format']}")
            wrong = [name for name in ("fps", "max_seconds") if not SETTINGS[name](provenance[name])]
            if wrong:
                raise ValueError(f"`{wrong[0]}` has a wrong value")
        except ValueError as error:
            raise self._damaged(error) from error
        return provenance

    def _damaged(self, reason: object) -> ValueError:
        return ValueError(
            "The file must be the one that `keras-netvlad vocabulary` wrote; copy the vocabulary again. "
            f"Received: {self.directory / VOCABULARY_FILE} ({reason})"
        )

    def _check_file(self, name: str, digest: str) -> None:
        path = self.directory / name
        if not path.is_file():
            raise FileNotFoundError(
                f"All files of a vocabulary must lie in its directory; copy it again. Received: no file {path}"
            )
        if file_digest(path) != digest:
            raise ValueError(
                "A vocabulary works with its own backbone only; copy it again, or build one with the other backbone. "
                f"Received: {path}, which is damaged or of another vocabulary than {self.provenance['backbone']}'s"
            )

    def _open(self, name: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        return onnxruntime.InferenceSession(str(self.directory / name), options, providers=["CPUExecutionProvider"])


def find_media(folder: Path) -> list[str]:
    """Returns the paths of the pictures and videos in a folder, within it and sorted.

    Raises:
        NotADirectoryError: If the folder is not a directory.
        ValueError: If it holds no picture and no video.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a directory of pictures and videos. Received: {folder}")
    suffixes = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file()]
    if not paths:
        raise ValueError(f"`folder` must hold pictures or videos, such as .jpg and .mp4. Received: {folder}")
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def frame_batches(
    path: str | os.PathLike[str], size: int, fps: float | None, max_seconds: float | None
) -> Iterator[NDArray[np.uint8]]:
    """Yields the frames of a picture or video, cropped to squares, as `(n, size, size, 3)` with at most 32 frames."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading pictures and videos needs PyAV, which is not installed. Install it with "
            "`pip install 'keras_netvlad[video]'`."
        ) from error
    batch: list[NDArray[np.uint8]] = []
    # Not by `read_video`, whose package loads TensorFlow.
    for frame in sample(decode(av, Path(path)), None if fps is None else frame_rate(fps), max_seconds):
        batch.append(to_array(frame, (size, size), crop=True))
        if len(batch) == BATCH_SIZE:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
