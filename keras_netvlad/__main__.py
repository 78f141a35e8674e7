"""The command `keras-netvlad`."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

DONE, PARITY_FAILED, WRONG_USE = 0, 1, 2
UNREADABLE = 1


def main(arguments=None):
    """Parses a command line, calls one library function, prints what came of it.

    Returns:
        The exit code: 0 done, 1 parity failed, 2 wrong use.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    # TensorFlow's notes on the machine are not an answer to the command; set before it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        return options.command(options)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"keras-netvlad {options.command_name}: {error}", file=sys.stderr)  # cli
        return WRONG_USE


def _demo(options):
    from keras_netvlad.demo import run_demo

    run_demo(options.output, options.epochs, options.seed)
    return DONE


def _export(options):
    from keras_netvlad.export import export_model
    from keras_netvlad.models import load_model

    return _write(
        options,
        lambda **checks: export_model(
            load_model(options.model), options.output, options.format, options.opset, options.precision, **checks
        ),
    )


def _publish(options):
    from keras_netvlad.export import publish, publish_triton
    from keras_netvlad.models import load_model

    if options.server == "triton":
        form = {"precision": options.precision, "device": options.device, "tensorrt": options.tensorrt}
    elif options.precision != "float32" or options.tensorrt or options.device != "gpu":
        raise ValueError(
            "TensorFlow Serving takes the model as it is, for any device; `--precision`, `--device` and `--tensorrt` "
            "go with `--server triton`."
        )
    else:
        form = {}
    write = publish_triton if options.server == "triton" else publish
    return _write(
        options,
        lambda **checks: [
            write(load_model(options.model), options.base, options.name, options.version, **form, **checks)
        ],
    )


def _write(options, write):
    """Runs what writes artefacts, with the options that all of them share; prints the reports."""
    from keras_netvlad.export import ParityError

    metadata = {}
    if options.labels:
        metadata["labels"] = Path(options.labels).read_text(encoding="utf-8").splitlines()
    if options.trained_on:
        metadata["trained_on"] = options.trained_on
    try:
        reports = write(
            tolerance=options.tolerance, data=options.data, min_agreement=options.min_agreement, metadata=metadata
        )
    except ParityError as error:
        print(f"keras-netvlad {options.command_name}: {error}", file=sys.stderr)  # cli
        return PARITY_FAILED
    for report in reports:
        print(report)  # cli
    return DONE


def _train(options):
    from keras_netvlad.training import train

    report = train(
        options.train,
        options.output,
        preset=options.preset,
        validation_files=options.validation,
        num_classes=options.num_classes,
        feature_sizes=options.feature_sizes,
        overrides=options.overrides,
        epochs=options.epochs,
        batch_size=options.batch_size,
        max_frames=options.max_frames,
        learning_rate=options.learning_rate,
        learning_rate_decay=options.learning_rate_decay,
        decay_examples=options.decay_examples,
        ema_momentum=options.ema,
        mixed_precision=options.mixed_precision,
        patience=options.patience,
        save_every=options.save_every,
        errors=options.errors,
        seed=options.seed,
    )
    print(report)  # cli
    return DONE


def _verify(options):
    from keras_netvlad.export import verify
    from keras_netvlad.models import load_model

    model = load_model(options.model)
    reports = [verify(model, path, options.tolerance, options.data, options.min_agreement) for path in options.artefact]
    for report in reports:
        print(report)  # cli
    return DONE if all(report.ok for report in reports) else PARITY_FAILED


def _inspect(options):
    from keras_netvlad.export.inspection import find_artefacts, inspect_artefact

    for path in find_artefacts(options.path):
        print(inspect_artefact(path))  # cli
    return DONE


def _extract(options):
    import keras

    from keras_netvlad.videos.extraction import extract_features

    bar = None

    def progress(result, total):
        nonlocal bar
        bar = bar or keras.utils.Progbar(total, unit_name="video")
        bar.add(1)
        if result.error:
            print(f"\nkeras-netvlad extract: {result.error}", file=sys.stderr)  # cli

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
    )
    failed = sum(result.error is not None for result in results)
    num_frames = sum(result.num_frames for result in results)
    print(f"{len(results) - failed} videos extracted, {num_frames} frames; {failed} could not be read")  # cli
    clipped = sum(result.clipped * result.num_frames for result in results) / max(num_frames, 1)
    if clipped:
        print(f"{clipped:.1%} of the values lie outside -2 to 2 and were clipped; --dtype float16 keeps them")  # cli
    return UNREADABLE if failed else DONE


def _search(options):
    from keras_netvlad.retrieval import DescriptorIndex
    from keras_netvlad.retrieval.index_records import index_records

    if options.model is None and not Path(options.clips).is_file():
        raise ValueError(
            "Records need --model, an ONNX file that computes their descriptors; a saved index does without. "
            f"Received: {options.clips}"
        )
    if options.model is None:
        index = DescriptorIndex.load(options.clips)
    else:
        index = index_records(options.clips, options.model)
    if options.save_index is not None:
        index.save(options.save_index)
    ids, similarities = index.search(index.descriptor(options.id)[None], options.count + 1)
    nearest = [pair for pair in zip(ids[0], similarities[0], strict=True) if pair[0] != options.id]
    for name, similarity in nearest[: options.count]:
        print(f"{similarity:7.4f}  {name}")  # cli
    return DONE


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-netvlad",
        description="NetVLAD video models as artefacts: export a .keras file to SavedModel and ONNX, and prove that "
        "they compute the same.",
        epilog="Exit codes: 0 done, 1 an artefact differs from its model or a video could not be read, 2 wrong use.",
    )
    commands = parser.add_subparsers(title="commands", dest="command_name", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the whole way on real speech frames: train, export, verify, serve")
    demo.add_argument("--output", required=True, metavar="DIR", help="directory to make; it must not exist")
    demo.add_argument("--epochs", type=int, default=30, help="epochs of each training (default %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of each training (default %(default)s)")
    demo.set_defaults(command=_demo)

    export = commands.add_parser("export", help="write a .keras model as SavedModel and ONNX, verified")
    export.add_argument("model", metavar="MODEL.keras", help="a model saved by Keras, with named inputs")
    export.add_argument("output", metavar="DIR", help="directory to make; it must not exist")
    export.add_argument(
        "--format",
        nargs="+",
        default=["saved_model", "onnx"],
        metavar="FORMAT",
        help="saved_model (to DIR/NAME/1/), onnx (to DIR/model.onnx), or both, the default",
    )
    export.add_argument("--opset", type=int, default=18, help="ONNX operator set, 13 to 18 (default %(default)s)")
    _add_precision(export)
    _add_checks(export)
    _add_metadata(export)
    export.set_defaults(command=_export)

    publish = commands.add_parser("publish", help="write a .keras model as a server's next version, verified")
    publish.add_argument("model", metavar="MODEL.keras", help="a model saved by Keras, with named inputs")
    publish.add_argument("base", metavar="BASE", help="the server's directory of models; made if it is not there")
    publish.add_argument(
        "--server",
        choices=["tensorflow-serving", "triton"],
        default="tensorflow-serving",
        help="whose layout to write: BASE/NAME/VERSION/, with config.pbtxt for Triton (default %(default)s)",
    )
    publish.add_argument("--name", help="name to serve the model by (default: its own)")
    publish.add_argument("--version", type=int, help="version to write (default: the next that is free)")
    publish.add_argument(
        "--device", choices=["gpu", "cpu"], default="gpu", help="Triton: what runs the model (default %(default)s)"
    )
    publish.add_argument("--tensorrt", action="store_true", help="Triton: let TensorRT run the model")
    _add_precision(publish)
    _add_checks(publish)
    _add_metadata(publish)
    publish.set_defaults(command=_publish)

    _add_train(commands)

    verify = commands.add_parser("verify", help="compare artefacts with the .keras model they were made from")
    verify.add_argument("model", metavar="MODEL.keras", help="the model")
    verify.add_argument("artefact", nargs="+", metavar="ARTEFACT", help="a SavedModel directory or an .onnx file")
    _add_checks(verify)
    verify.set_defaults(command=_verify)

    inspect = commands.add_parser("inspect", help="print what an artefact is, without running it")
    inspect.add_argument("path", metavar="PATH", help="a SavedModel, an .onnx file, or a directory that holds some")
    inspect.set_defaults(command=_inspect)

    extract = commands.add_parser("extract", help="frame features of a folder of videos, as YouTube-8M records")
    extract.add_argument("folder", metavar="FOLDER", help="directory of videos, with all below it")
    extract.add_argument("output", metavar="DIR", help="where records go; those that are there are not made again")
    extract.add_argument("--backbone", default="MobileNetV2", help="model of keras.applications (default %(default)s)")
    extract.add_argument(
        "--weights", default="imagenet", help="imagenet, a file of weights without top, or none (default %(default)s)"
    )
    extract.add_argument("--size", type=int, default=224, help="height and width of pictures (default %(default)s)")
    extract.add_argument("--fps", type=float, default=1.0, help="frames a second (default %(default)s)")
    extract.add_argument(
        "--pooling",
        choices=["avg", "max", "none"],
        default="avg",
        help="of each frame's maps; none keeps them, a row a position (default %(default)s)",
    )
    extract.add_argument("--dtype", choices=["uint8", "float16"], default="uint8", help="default %(default)s")
    extract.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    extract.set_defaults(command=_extract)

    search = commands.add_parser("search", help="the clips nearest to a clip, by their descriptors")
    search.add_argument(
        "clips",
        metavar="RECORDS",
        help="directory or pattern of YouTube-8M records, as extract writes them; without --model, a saved index",
    )
    search.add_argument("id", metavar="ID", help="the clip to search for, by the id in its record")
    search.add_argument("--model", metavar="MODEL.onnx", help="what computes the descriptors of the records")
    search.add_argument("--save-index", metavar="NPZ", help="keep the descriptors, to search in them again")
    search.add_argument("--count", type=int, default=5, help="clips to print (default %(default)s)")
    search.set_defaults(command=_search)
    return parser


def _add_train(commands):
    train = commands.add_parser(
        "train", help="train a preset on YouTube-8M's records and publish it; goes on where a killed run was"
    )
    train.add_argument("--preset", default="gated_netvlad", help="published model to train (default %(default)s)")
    train.add_argument("--train", nargs="+", required=True, metavar="FILES", help="files or quoted patterns")
    train.add_argument("--validation", nargs="+", metavar="FILES", help="the same, for GAP after each epoch")
    train.add_argument("--output", required=True, metavar="DIR", help="directory of the run, new or to go on with")
    train.add_argument("--num-classes", type=int, default=3862, help="number of classes (default %(default)s)")
    train.add_argument("--feature-sizes", type=_json_object, metavar="JSON", help='default {"rgb": 1024, "audio": 128}')
    train.add_argument(
        "--overrides", type=_json_object, metavar="JSON", help='arguments of VideoClassifier, as {"hidden_units": 512}'
    )
    train.add_argument("--epochs", type=int, default=5, help="default %(default)s")
    train.add_argument("--batch-size", type=int, default=80, help="videos in a batch (default %(default)s)")
    train.add_argument("--max-frames", type=int, default=300, help="frames of a video at most (default %(default)s)")
    train.add_argument("--learning-rate", type=float, default=2e-4, help="to start with (default %(default)s)")
    train.add_argument(
        "--learning-rate-decay", type=float, default=0.8, help="factor every --decay-examples (default %(default)s)"
    )
    train.add_argument("--decay-examples", type=int, default=4_000_000, help="videos (default %(default)s)")
    train.add_argument("--ema", type=float, metavar="MOMENTUM", help="publish the moving average of the weights")
    train.add_argument("--mixed-precision", action="store_true", help="compute in bfloat16")
    train.add_argument("--patience", type=int, help="stop after so many validations without a better GAP")
    train.add_argument("--save-every", type=int, metavar="BATCHES", help="write what to go on from (default: an epoch)")
    train.add_argument("--errors", choices=["raise", "skip"], default="raise", help="bad records (default %(default)s)")
    train.add_argument("--seed", type=int, default=0, help="default %(default)s")
    train.set_defaults(command=_train)


def _json_object(text):
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, such as '{{\"name\": 512}}'. Received: {text}")
    return value


def _add_precision(parser):
    parser.add_argument(
        "--precision",
        choices=["float32", "float16", "int8"],
        default="float32",
        help="of the weights of the large projections in ONNX (default %(default)s: as the model has them)",
    )


def _add_checks(parser):
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest relative difference allowed (default 1e-4; 2e-2 with 16-bit layers; more for int8)",
    )
    parser.add_argument("--data", metavar="NPZ", help="real inputs to compare on, too: one array for each input")
    parser.add_argument(
        "--min-agreement",
        type=float,
        metavar="FRACTION",
        help="share of the rows of --data on which artefact and model must name the same class",
    )


def _add_metadata(parser):
    parser.add_argument("--labels", metavar="TXT", help="names of the classes, one a line, kept with the artefact")
    parser.add_argument("--trained-on", metavar="TEXT", help="what the model was trained on, kept with the artefact")


if __name__ == "__main__":
    sys.exit(main())
