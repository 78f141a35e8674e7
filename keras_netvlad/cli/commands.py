"""The commands: each calls one function of the library, prints the result and returns an exit code.

A command imports what it needs when it runs, so that `--help` starts without NumPy and `search` without TensorFlow.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from keras_netvlad.base.stages import stage
from keras_netvlad.cli.errors import DIFFERS, DONE, UNREADABLE
from keras_netvlad.cli.progress import extraction_bar

TRITON_OPTIONS = (
    "device",
    "precision",
    "preferred_batch_sizes",
    "staging",
    "tensorrt",
    "profile_frames",
    "engine_cache",
)
# Options of `train` for one of its two kinds of data.
OWN_OPTIONS = ("pooling", "num_clusters", "hidden_units", "dropout", "adapt", "class_weights")
METADATA_OPTIONS = ("labels", "trained_on", "license")
PRESET_OPTIONS = (
    "validation_files",
    "preset",
    "level",
    "feature_dtype",
    "frame_counts",
    "num_classes",
    "feature_sizes",
    "overrides",
    "learning_rate_decay",
    "decay_examples",
    "save_every",
    "errors",
    *METADATA_OPTIONS,
)


def demo(options: argparse.Namespace) -> int:
    """Trains, exports and verifies on the packaged speech frames."""
    from keras_netvlad.demo import run_demo

    def write():
        run_demo(options.output, options.epochs, options.seed)  # prints its reports itself
        return []

    return _write(options, write)


def convert(options: argparse.Namespace) -> int:
    """Converts a checkpoint of another package into a `.keras` file."""
    with stage(f"converting {options.file}"):
        from keras_netvlad.convert import convert_file

        model = convert_file(options.file, options.output, options.form)
    print(f"{options.output}: {model.name}, {model.count_params():,} parameters")  # cli
    for kind, tensors in (("input", model.input), ("output", model.output)):
        for name, tensor in tensors.items():
            shape = ", ".join("any" if size is None else str(size) for size in tensor.shape)
            print(f"  {kind:6}  {name}  {tensor.dtype}  ({shape})")  # cli
    return DONE


def export(options: argparse.Namespace) -> int:
    """Writes a `.keras` model as SavedModel, ONNX or LiteRT."""
    from keras_netvlad.export import export_model

    def write():
        model = _load_model(options)
        settings = (options.format, options.opset, options.precision)
        checks = {**_checks(options), "verify": options.verify}
        checks |= {"layout": options.layout, "size": options.size}
        checks["onnx_signatures"] = "all" if options.signatures == ["all"] else options.signatures
        reports = export_model(model, options.output, *settings, **checks, metadata=_metadata(options))
        return reports if options.verify else [f"{options.output}: written, not verified"]

    return _write(options, write)


def publish(options: argparse.Namespace) -> int:
    """Writes a `.keras` model as the next version of a server."""
    from keras_netvlad.export import publish, publish_triton

    given = {argument: value for argument, value in vars(options).items() if value is not None}
    for_triton = {argument: given[argument] for argument in TRITON_OPTIONS if argument in given}
    if options.server != "triton" and for_triton:
        raise ValueError(
            "TensorFlow Serving runs the model as it is, on any device; leave these options out, or add "
            f"`--server triton`. Received: {_flags(for_triton)}"
        )
    for_tensorrt = [argument for argument in ("profile_frames", "engine_cache") if argument in given]
    if for_tensorrt and not options.tensorrt:
        raise ValueError(f"Only TensorRT uses these options; add `--tensorrt`. Received: {_flags(for_tensorrt)}")

    def write():
        model = _load_model(options)
        settings = {**_checks(options), **for_triton, "verify": options.verify, "metadata": _metadata(options)}
        if options.queue_delay is not None:
            settings["max_queue_delay_microseconds"] = options.queue_delay
        settings |= {name: given[name] for name in ("max_batch_size", "warmup_frames") if name in given}
        writer: Callable[..., Any] = publish_triton if options.server == "triton" else publish
        report = writer(model, options.base, options.name, options.version, **settings)
        return [report or f"{Path(options.base, options.name or model.name)}: written, not verified"]

    return _write(options, write)


def train(options: argparse.Namespace) -> int:
    """Trains a classifier of the user's own classes, or a preset on YouTube-8M's records."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("command", "command_name", "debug", "features", "train_files", "output"):
        given.pop(name, None)
    if (options.features is None) == (options.train_files is None):
        raise ValueError(
            "`train` takes FEATURES, which `extract --labels` wrote, or `--train` with YouTube-8M's records. "
            f"Received: {'neither' if options.features is None else 'both'}"
        )
    wrong = PRESET_OPTIONS if options.train_files is None else OWN_OPTIONS
    if unknown := [name for name in wrong if name in given]:
        kind = "a preset, with --train" if options.train_files is None else "your own FEATURES"
        raise ValueError(f"These options are for {kind}; leave them out. Received: {_flags(unknown)}")

    def write():
        if options.train_files is not None:
            from keras_netvlad.training import train

            for name in METADATA_OPTIONS:
                given.pop(name, None)
            given["metadata"] = _metadata(options)
            return [train(options.train_files, options.output, **given)]
        from keras_netvlad.videos import train as train_classes

        results = train_classes(options.features, options.output, **given)
        return [results, f"wrote {Path(options.output, 'predictor')}"]

    return _write(options, write)


def predict(options: argparse.Namespace) -> int:
    """Prints the best classes of video files."""
    from keras_netvlad.videos.predict import predictor_directory, run

    return UNREADABLE if run(predictor_directory(options.run), options) else DONE


def verify(options: argparse.Namespace) -> int:
    """Compares artifacts with their model."""
    from keras_netvlad.export import compare_layers, verify

    model = _load_model(options)
    compared = options.artefact if options.layers else []
    layers = [compare_layers(model, path, options.tolerance, options.data) for path in compared]
    reports = [verify(model, path, **_checks(options), runtime=options.runtime) for path in options.artefact]
    for report in (*reports, *layers):
        print(report)  # cli
    is_ok = all(report.ok for report in reports) and all(report.ok for report in layers)
    return DONE if is_ok else DIFFERS


def inspect(options: argparse.Namespace) -> int:
    """Describes artifacts without running them."""
    from keras_netvlad.export.inspection import find_artefacts, inspect_artefact

    for path in find_artefacts(options.path):
        print(inspect_artefact(path))  # cli
    return DONE


def extract(options: argparse.Namespace) -> int:
    """Writes the frame features of a folder of videos."""
    from keras_netvlad.videos import extract_features
    from keras_netvlad.videos.features_folder import count_table

    with extraction_bar() as progress:
        results = extract_features(
            options.folder,
            options.output,
            options.backbone,
            None if options.weights == "none" else options.weights,
            options.size,
            options.fps,
            None if options.pooling == "none" else options.pooling,
            options.dtype,
            workers=options.workers,
            progress=progress,
            labels=options.labels,
            seed=options.seed,
            max_seconds=options.max_seconds,
            layer=options.layer,
            **({} if options.split is None else {"split": options.split}),
        )
    failed = sum(result.error is not None for result in results)
    num_frames = sum(result.num_frames for result in results)
    print(f"{len(results) - failed} videos extracted, {num_frames} frames; {failed} could not be read")  # cli
    clipped = sum(result.clipped * result.num_frames for result in results) / max(num_frames, 1)
    if clipped:
        print(f"{clipped:.1%} of the values lie outside -2 to 2 and were clipped; --dtype float16 keeps them")  # cli
    if options.labels is not None:
        print(count_table(options.output))  # cli
    return UNREADABLE if failed else DONE


def vocabulary(options: argparse.Namespace) -> int:
    """Builds a vocabulary from a folder of pictures and videos."""
    from keras_netvlad.videos import build_vocabulary

    errors: list[str] = []

    def write():
        built = build_vocabulary(
            options.folder,
            options.output,
            options.backbone,
            None if options.weights == "none" else options.weights,
            options.size,
            options.layer,
            options.num_clusters,
            options.fps,
            options.max_seconds,
            options.sample_size,
            options.seed,
            _unreadable(options.command_name, errors),
        )
        numbers = built.provenance
        counts = ", ".join(f"{numbers[f'num_{name}']} {name}" for name in ("files", "frames", "features"))
        clustered = f"{numbers['num_sampled']} made {numbers['num_clusters']} clusters"
        return [f"{counts}, of which {clustered}; {len(errors)} could not be read"]

    return max(_write(options, write), UNREADABLE if errors else DONE)


def index(options: argparse.Namespace) -> int:
    """Stores the descriptors of a folder of pictures and videos."""
    from keras_netvlad.videos import Vocabulary

    if os.path.lexists(options.output):
        raise FileExistsError(f"The index must be a new file; remove it or choose another. Received: {options.output}")
    errors: list[str] = []
    made = Vocabulary(options.vocabulary).index(options.folder, _unreadable(options.command_name, errors))
    made.save(options.output)
    print(f"{len(made)} files indexed; {len(errors)} could not be read")  # cli
    return UNREADABLE if errors else DONE


def _unreadable(command: str, errors: list[str]) -> Callable[[str, Exception | None], None]:
    """Returns a function that prints the error of a file and appends its name to a list."""

    def report(name: str, error: Exception | None) -> None:
        if error is not None:
            errors.append(name)
            print(f"keras-netvlad {command}: {error}", file=sys.stderr)  # cli

    return report


def search(options: argparse.Namespace) -> int:
    """Prints the clips whose descriptors are most similar to that of a given clip."""
    from keras_netvlad.retrieval import DescriptorIndex, index_records
    from keras_netvlad.videos.predict import predictor_directory

    if options.run is not None and options.model is not None:
        raise ValueError("A run has its own model; give `--run` or `--model`. Received: both")
    if options.vocabulary is not None and not options.clips.endswith(".npz"):
        raise ValueError(f"`--vocabulary` needs an index; `index` writes one. Received: {options.clips}")
    directory = None if options.run is None else predictor_directory(options.run)
    model = options.model if directory is None else directory / "classifier.onnx"
    if options.clips.endswith(".npz") and not os.path.isfile(options.clips):
        raise FileNotFoundError(
            "An index must be a file that `--save-index` or `index` wrote. "
            f"Received: {options.clips}, which does not exist"
        )
    is_saved = Path(options.clips).is_file() and (model is None or options.clips.endswith(".npz"))
    if model is None and not is_saved:
        raise ValueError(
            "Records need --run, a run of `train`, or --model, an ONNX file that computes their descriptors. A saved "
            f"index needs neither. Received: {options.clips}"
        )
    if is_saved:
        index = DescriptorIndex.load(options.clips)
    else:
        index = index_records(options.clips, model)
        if directory is not None:
            index.source["run"] = os.path.abspath(options.run)
    if options.save_index is not None:
        index.save(options.save_index)
    if options.clip in index.ids or not os.path.isfile(options.clip):
        query = index.descriptor(options.clip)
    else:
        query = _describe(options.clip, index, directory, options.vocabulary)
    ids, similarities = index.search(query[None], options.count + 1)
    nearest = [pair for pair in zip(ids[0], similarities[0], strict=True) if pair[0] != options.clip]
    for name, similarity in nearest[: options.count]:
        print(f"{similarity:7.4f}  {name}")  # cli
    return DONE


def _describe(clip: str, index: Any, directory: Path | None, vocabulary: str | None) -> Any:
    """Returns the descriptor of a file, computed by the run or the vocabulary that made the index."""
    from keras_netvlad.videos.predict import Predictor, predictor_directory
    from keras_netvlad.videos.vocabulary import Vocabulary

    vocabulary = vocabulary or (index.source.get("vocabulary") if directory is None else None)
    if vocabulary is not None:
        describing = Vocabulary(vocabulary)
        index.check_source(describing.source)
        return describing.descriptor(clip)
    if directory is None:
        if "run" not in index.source or not Path(index.source["run"]).is_dir():
            raise ValueError(
                f"A video file needs --run, the run of `train` that made the index. Received: {clip}, which is not the "
                "id of a clip in the index"
            )
        directory = predictor_directory(index.source["run"])
    predictor = Predictor(directory)
    files = predictor.settings["files"]
    index.check_source({"model": files["classifier.onnx"], "encoder": files["encoder.onnx"]})
    return predictor.descriptor(clip)


def report(options: argparse.Namespace) -> int:
    """Writes the report of a training run."""
    from keras_netvlad.videos import write_report

    print(write_report(options.run, options.output, options.videos))  # cli
    return DONE


def web(options: argparse.Namespace) -> int:
    """Writes a web page that classifies videos in the browser."""
    from keras_netvlad.videos.web import write_web_page

    print(  # cli
        write_web_page(options.run, options.output, options.index, options.runtime, options.encoder_weights)
    )
    return DONE


def completion(options: argparse.Namespace) -> int:
    """Prints the completion script of a shell."""
    from keras_netvlad.cli.completion import completion_script
    from keras_netvlad.cli.parser import make_parser

    print(completion_script(make_parser(), options.shell))  # cli
    return DONE


def _write(options: argparse.Namespace, write: Callable[[], Iterable[object]]) -> int:
    """Calls a function that writes artifacts and prints the reports that it returns."""
    from keras_netvlad.export import ParityError

    try:
        reports = write()
    except ParityError as error:
        print(f"keras-netvlad {options.command_name}: {error}", file=sys.stderr)  # cli
        return DIFFERS
    for report in reports:
        print(report)  # cli
    return DONE


def _load_model(options: argparse.Namespace) -> Any:
    """Imports the user's modules, which register layers, and loads the model. Importing Keras is part of the stage."""
    with stage(f"loading {options.model}"):
        from keras_netvlad.models import load_model

        folder = os.getcwd()
        if options.imports and folder not in sys.path:
            sys.path.insert(0, folder)
        for module in options.imports:
            try:
                importlib.import_module(module)
            except Exception as error:
                # The module may raise any exception.
                raise ValueError(
                    "`--import` takes the name of a Python module in the working directory or on Python's path, "
                    f"without .py, that can be imported. Received: {module} ({type(error).__name__}: {error})"
                ) from error
        return load_model(options.model)


def _flags(arguments: Iterable[str]) -> str:
    """Returns the options of the command line that store some arguments."""
    return ", ".join(f"`--{argument.replace('_', '-')}`" for argument in arguments)


def _checks(options):
    return {"tolerance": options.tolerance, "data": options.data, "min_agreement": options.min_agreement}


def _metadata(options):
    metadata = {}
    if options.labels:
        try:
            metadata["labels"] = Path(options.labels).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"`--labels` must be a text file in UTF-8; convert it. Received: {options.labels} ({error})"
            ) from error
    for name in ("trained_on", "license"):
        if getattr(options, name):
            metadata[name] = getattr(options, name)
    return metadata
