"""Classifies video files with a trained predictor.

    python predict.py clip.mp4 [more.mkv folder 'clips/*.mp4' ...] [--top 3] [--every 5] [--json FILE] [--csv FILE]

A predictor is a directory that `keras-netvlad train` wrote: `predictor.json`, the ONNX files that it names, this
program, `predict_options.py` and `video_decoding.py`. It needs NumPy, onnxruntime and PyAV only:
`pip install numpy onnxruntime av`.
"""

import argparse
import csv
import glob
import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if __package__:
    from keras_netvlad.base.video_decoding import UnreadableVideoError, decode, frame_rate, sample, to_array
    from keras_netvlad.videos.predict_options import add_options
else:
    from predict_options import add_options  # type: ignore
    from video_decoding import UnreadableVideoError, decode, frame_rate, sample, to_array  # type: ignore

# Name of the directory of a predictor in a run of `train`.
PREDICTOR = "predictor"
FORMAT = 1
SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
BATCH_SIZE = 32
# Bytes stand for the 256 levels of YouTube-8M between -2 and 2.
LOWEST, HIGHEST = -2.0, 2.0
SCALE, OFFSET = (HIGHEST - LOWEST) / 255, (HIGHEST - LOWEST) / 512 + LOWEST
COLUMNS = ("video", "second", "label", "score")
# No camera is faster, and a video that is read more often would never end.
HIGHEST_FPS = 1000


def _is_positive(value: Any, largest: float = math.inf) -> bool:
    return type(value) in (int, float) and 0 < value <= largest and value < math.inf


# The settings that predictor.json must contain, and the check of each value.
SETTINGS: dict[str, Callable[[Any], bool]] = {
    "labels": lambda value: isinstance(value, list) and all(isinstance(label, str) for label in value),
    "files": lambda value: isinstance(value, dict),
    "stream": lambda value: isinstance(value, str),
    "dtype": lambda value: value in ("uint8", "float16"),
    "size": lambda value: type(value) is int,
    "positions": lambda value: type(value) is int,
    "fps": lambda value: value is None or (_is_positive(value, HIGHEST_FPS) and frame_rate(value) > 0),
    "max_seconds": lambda value: value is None or _is_positive(value),
}


@dataclass(frozen=True)
class Answer:
    """The scores of a video, or of its beginning.

    Attributes:
        second: Seconds of the video that the scores are computed from.
        scores: `(C,)`, one score for each class.
    """

    second: float
    scores: NDArray[np.float32]


class Predictor:
    """Computes the scores of video files.

    Args:
        directory: Directory of the predictor.

    Attributes:
        labels: Names of the classes.
        has_live_stream: Whether running answers are computed from sums over frames, in constant memory.

    Example:

    >>> from keras_netvlad.videos import Predictor
    >>> try:
    ...     Predictor("no/such/run")
    ... except FileNotFoundError as error:
    ...     print(error)
    A predictor is a directory with predictor.json, which `keras-netvlad train` writes. Received: no/such/run

    Raises:
        FileNotFoundError: If a file of the predictor is missing.
        ValueError: If a file is damaged or was replaced.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.settings = self._read_settings()
        self.labels: list[str] = self.settings["labels"]
        self.encoder = self._open("encoder.onnx")
        self.classifier = self._open("classifier.onnx")
        self.has_live_stream = "accumulate.onnx" in self.settings["files"]
        if self.has_live_stream:
            self.accumulate, self.describe = self._open("accumulate.onnx"), self._open("describe.onnx")
        self._check_settings_fit_files()

    def predict(self, video: str | os.PathLike[str]) -> Answer:
        """Returns the scores of a whole video.

        Raises:
            UnreadableVideoError: If the file is not a complete video.
            OSError: If the file cannot be read.
        """
        features = self.features(video)
        return Answer(self._seconds(len(features)), self.classify(features))

    def descriptor(self, video: str | os.PathLike[str]) -> NDArray[np.float32]:
        """Returns the descriptor `(F,)` of a whole video, for the search for similar clips.

        Raises:
            UnreadableVideoError: If the file is not a complete video.
            OSError: If the file cannot be read.
        """
        return self.classifier.run(["descriptor"], self._inputs(self.features(video)))[0][0]

    def running_answers(self, video: str | os.PathLike[str], every: float) -> Iterator[Answer]:
        """Yields the scores of the beginning of a video, again and again until its end.

        Args:
            video: Path of the video.
            every: Seconds between two answers. They are rounded up to whole frames.

        Raises:
            UnreadableVideoError: If the file is not a complete video.
            OSError: If the file cannot be read.
        """
        step = max(1, math.ceil(every * float(frame_rate(self.settings["fps"])) - 1e-9))
        count = 0

        def chunks() -> Iterator[NDArray[Any]]:
            nonlocal count
            for frames in self._batches(video, step):
                features = self.encode(frames)
                count += len(features)
                yield features

        for scores in self.accumulated(chunks()):
            yield Answer(self._seconds(count), scores)

    def features(self, video: str | os.PathLike[str]) -> NDArray[Any]:
        """Returns the features of the frames of a whole video, as `encode` does.

        Raises:
            UnreadableVideoError: If the file is not a complete video.
            OSError: If the file cannot be read.
        """
        return np.concatenate([self.encode(frames) for frames in self._batches(video, BATCH_SIZE)])

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns the features of frames `(T, size, size, 3)`, in the dtype of the records for training.

        Returns:
            `(T, D)`; `(T * positions, D)` for an encoder that returns maps.
        """
        (features,) = self.encoder.run(["features"], {"images": frames})
        features = features.reshape(-1, features.shape[-1])
        if self.settings["dtype"] == "uint8":
            levels = (np.clip(features.astype("float64"), LOWEST, HIGHEST) - OFFSET) / SCALE
            return np.clip(np.rint(levels), 0, 255).astype("uint8")
        return features.astype("float16").astype("float32")

    def classify(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the scores `(C,)` of features `(T, D)`, all at once."""
        return self.classifier.run(["scores"], self._inputs(features))[0][0]

    def accumulated(self, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yields the scores `(C,)` of all features so far, after each chunk `(T, D)`."""
        if not self.has_live_stream:
            so_far: list[NDArray[Any]] = []
            for features in chunks:
                so_far.append(features)
                yield self.classify(np.concatenate(so_far))
            return
        names = [port.name for port in self.accumulate.get_outputs()]
        shapes = {port.name: port.shape for port in self.accumulate.get_inputs()}
        past = {
            f"past.{name}": [size if isinstance(size, int) else 1 for size in shapes[f"past.{name}"]] for name in names
        }
        sums = [np.zeros(shape, "float32") for shape in past.values()]
        for features in chunks:
            inputs = {**self._inputs(features), **dict(zip(past, sums, strict=True))}
            sums = self.accumulate.run(names, inputs)
            yield self.describe.run(["scores"], dict(zip(names, sums, strict=True)))[0][0]

    def _seconds(self, num_features: int) -> float:
        fps = self.settings["fps"]
        return 0.0 if fps is None else float(num_features // self.settings["positions"] / frame_rate(fps))

    def _inputs(self, features: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {self.settings["stream"]: features[None], "num_frames": np.array([len(features)], "int32")}

    def _batches(self, video: str | os.PathLike[str], size: int) -> Iterator[NDArray[np.uint8]]:
        import av

        fps = self.settings["fps"]
        sides = (self.settings["size"], self.settings["size"])
        frames = sample(decode(av, Path(video)), None if fps is None else frame_rate(fps), self.settings["max_seconds"])
        batch = []
        for frame in frames:
            batch.append(to_array(frame, sides, crop=True))
            if len(batch) == size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    def _read_settings(self) -> dict[str, Any]:
        path = self.directory / "predictor.json"
        if not path.is_file():
            raise FileNotFoundError(
                "A predictor is a directory with predictor.json, which `keras-netvlad train` writes. "
                f"Received: {self.directory}"
            )
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            if settings["format"] != FORMAT:
                raise ValueError(f"format {settings['format']}")
            wrong = [name for name, is_right in SETTINGS.items() if not is_right(settings[name])]
            if wrong:
                raise ValueError(f"`{wrong[0]}` has a wrong value")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"predictor.json must be the file that `keras-netvlad train` wrote; copy the predictor again. "
                f"Received: {path} ({type(error).__name__}: {error})"
            ) from error
        return settings

    def _check_settings_fit_files(self) -> None:
        (images,), (features,) = self.encoder.get_inputs(), self.encoder.get_outputs()
        inputs = {port.name: port.type for port in self.classifier.get_inputs()}
        num_classes = {port.name: port.shape[-1] for port in self.classifier.get_outputs()}["scores"]
        types = {"uint8": "tensor(uint8)", "float16": "tensor(float)"}
        fits = {
            "size": images.shape[1:3] == [self.settings["size"]] * 2,
            "positions": math.prod(features.shape[1:-1]) == self.settings["positions"],
            "stream": set(inputs) == {self.settings["stream"], "num_frames"},
            "dtype": types[self.settings["dtype"]] in inputs.values(),
            "labels": num_classes == len(self.labels),
        }
        wrong = [name for name, is_right in fits.items() if not is_right]
        if wrong:
            raise ValueError(
                "predictor.json and the ONNX files of a predictor belong together; copy the predictor again. "
                f"Received: {self.directory / 'predictor.json'}, whose `{wrong[0]}` does not fit"
            )

    def _open(self, name: str) -> Any:
        import onnxruntime

        path = self.directory / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"All files of a predictor must lie in its directory; copy it again. Received: {path}, which is missing"
            ) from None
        if hashlib.sha256(content).hexdigest() != self.settings["files"].get(name):
            raise ValueError(
                "The files of a predictor belong together; copy the predictor again. "
                f"Received: {path}, which is damaged or of another predictor"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        providers = [
            provider
            for provider in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if provider in onnxruntime.get_available_providers()
        ]
        return onnxruntime.InferenceSession(content, options, providers=providers)


def predictor_directory(run: str | os.PathLike[str]) -> Path:
    """Returns the directory of the predictor of a run of `train`; a predictor is returned unchanged."""
    directory = Path(run, PREDICTOR)
    return directory if directory.is_dir() else Path(run)


def find_videos(arguments: Iterable[str]) -> list[str]:
    """Returns the paths of video files, from files, folders (searched with their subfolders) and patterns.

    Raises:
        FileNotFoundError: If an argument matches nothing.
    """
    found: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            matches = sorted(
                str(path) for path in Path(argument).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
            )
        elif os.path.exists(argument):
            matches = [argument]
        else:
            matches = sorted(glob.glob(argument, recursive=True))
        if not matches:
            raise FileNotFoundError(f"A video must be a file, a folder of videos or a pattern. Received: {argument}")
        found += matches
    return list(dict.fromkeys(found))


class AnswerFile:
    """A file of answers, as CSV or as one JSON object per line, that a later call continues.

    The answers of a video are written at once. If the process was killed while it wrote them, the last video of the
    file is removed and classified again.

    Args:
        path: Path of the file; created if it does not exist. `"-"` is the standard output.
        is_csv: Whether to write CSV.

    Attributes:
        done: The videos whose answers are in the file.
    """

    def __init__(self, path: str, is_csv: bool) -> None:
        self.is_csv, self.path = is_csv, path
        self.done: set[str] = set()
        if path != "-" and os.path.exists(path):
            self.done = self._resume()
        if is_csv and not (path != "-" and os.path.exists(path) and os.path.getsize(path)):
            self._append(_csv_lines([COLUMNS]))

    def write(self, video: str, rows: Sequence[tuple[float, str, float]]) -> None:
        """Writes the rows `(second, label, score)` of a video."""
        if self.is_csv:
            self._append(_csv_lines([(video, f"{second:g}", label, f"{score:.6f}") for second, label, score in rows]))
            return
        lines = [
            json.dumps({"video": video, "second": second, "label": label, "score": round(score, 6)}, ensure_ascii=False)
            for second, label, score in rows
        ]
        self._append("".join(f"{line}\n" for line in lines))

    def _append(self, text: str) -> None:
        if self.path == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(text)

    def _resume(self) -> set[str]:
        try:
            with open(self.path, encoding="utf-8", newline="") as file:
                lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
            header = lines[:1] if self.is_csv else []
            if header and next(csv.reader(header)) != list(COLUMNS):
                raise ValueError("other columns")
            videos = [self._video_of(line) for line in lines[len(header) :]]
        except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
            raise ValueError(
                f"The file must hold answers of this command; give another one. Received: {self.path}"
            ) from error
        # The rows of the last video may be incomplete.
        kept = [number for number, video in enumerate(videos) if video != videos[-1]]
        part = f"{self.path}.partial"
        with open(part, "w", encoding="utf-8", newline="") as file:
            file.writelines([*header, *(lines[len(header) + number] for number in kept)])
        os.replace(part, self.path)
        return {videos[number] for number in kept}

    def _video_of(self, line: str) -> str:
        return next(csv.reader([line]))[0] if self.is_csv else json.loads(line)["video"]


def _csv_lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def predict_files(
    predictor: Predictor,
    videos: Sequence[str],
    top: int = 3,
    every: float | None = None,
    outputs: Sequence[AnswerFile] = (),
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Classifies files and prints or writes the best classes of each.

    Args:
        predictor: The predictor.
        videos: Paths of video files.
        top: Number of classes to report.
        every: Seconds between running answers, or `None` for one answer per video.
        outputs: Files for the answers. If there are none, the answers are printed.
        progress: Function of the number of finished videos and the number of videos, called after each; or `None`.

    Returns:
        List with a message for each file that cannot be read.
    """
    problems: list[str] = []
    waiting = [video for video in videos if not outputs or any(video not in output.done for output in outputs)]
    for number, video in enumerate(waiting):
        try:
            answers = predictor.running_answers(video, every) if every else [predictor.predict(video)]
            rows: list[tuple[float, str, float]] = []
            for answer in answers:
                best = np.argsort(-answer.scores, kind="stable")[:top]
                found = [(answer.second, predictor.labels[index], float(answer.scores[index])) for index in best]
                if not outputs:
                    _print(video, found, is_first=not rows, is_running=every is not None)
                rows += found
        except (UnreadableVideoError, OSError) as error:
            problems.append(str(error))
            print(f"{error}", file=sys.stderr)
            rows = []
        for output in outputs:
            if rows and video not in output.done:
                output.write(video, rows)
        if progress is not None:
            progress(number + 1, len(waiting))
    return problems


def _print(video: str, rows: Sequence[tuple[float, str, float]], is_first: bool, is_running: bool) -> None:
    if is_first:
        print(video)
    if is_running:
        print(f"  {rows[0][0]:8.1f} s  " + "  ".join(f"{score:.3f} {label}" for _, label, score in rows), flush=True)
        return
    for _, label, score in rows:
        print(f"  {score:.3f}  {label}", flush=True)


def run(directory: str | os.PathLike[str], options: argparse.Namespace) -> int:
    """Does what the options ask for, and returns the number of files that could not be read.

    Raises:
        ValueError: If an option or a file of the predictor is invalid.
        FileNotFoundError: If a file does not exist.
    """
    if options.top < 1:
        raise ValueError(f"`--top` must be a positive integer. Received: {options.top}")
    if options.every is not None and not 0 < options.every < float("inf"):
        raise ValueError(f"`--every` must be a number of seconds above 0. Received: {options.every}")
    videos = find_videos(options.videos)
    predictor = Predictor(directory)
    if options.every is not None and predictor.settings["fps"] is None:
        raise ValueError("`--every` needs a predictor with a frame rate. Received: one that reads every frame")
    outputs = [
        AnswerFile(path, is_csv) for path, is_csv in ((options.json, False), (options.csv, True)) if path is not None
    ]
    bar = _Progress() if outputs and sys.stderr.isatty() else None
    problems = predict_files(predictor, videos, options.top, options.every, outputs, bar)
    if len(videos) > 1 and problems:
        print(f"{len(videos)} videos; {len(problems)} could not be read", file=sys.stderr)
    return len(problems)


class _Progress:
    """Prints the number of finished videos and the time left, on one line of a terminal."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        left = (time.monotonic() - self.start) / done * (total - done)
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} videos, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)


def main() -> int:
    """Runs the program of the predictor in whose directory this file lies."""
    parser = argparse.ArgumentParser(description="Classifies video files.")
    add_options(parser)
    options = parser.parse_args()
    try:
        return 1 if run(Path(__file__).resolve().parent, options) else 0
    except (ValueError, OSError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("predict.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
