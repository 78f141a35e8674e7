"""The command `keras-netvlad`."""

import argparse
import logging
import os
import sys

DONE, PARITY_FAILED, WRONG_USE = 0, 1, 2


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
        print(f"keras-netvlad {options.name}: {error}", file=sys.stderr)  # cli
        return WRONG_USE


def _demo(options):
    from keras_netvlad.demo import run_demo

    run_demo(options.output, options.epochs, options.seed)
    return DONE


def _export(options):
    from keras_netvlad.export import ParityError, export_model
    from keras_netvlad.models import load_model

    try:
        reports = export_model(load_model(options.model), options.output, options.format, options.opset)
    except ParityError as error:
        print(f"keras-netvlad export: {error}", file=sys.stderr)  # cli
        return PARITY_FAILED
    for report in reports:
        print(report)  # cli
    return DONE


def _verify(options):
    from keras_netvlad.export import verify
    from keras_netvlad.models import load_model

    model = load_model(options.model)
    reports = [verify(model, path, options.tolerance) for path in options.artefact]
    for report in reports:
        print(report)  # cli
    return DONE if all(report.ok for report in reports) else PARITY_FAILED


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-netvlad",
        description="NetVLAD video models as artefacts: export a .keras file to SavedModel and ONNX, and prove that "
        "they compute the same.",
        epilog="Exit codes: 0 done, 1 an artefact differs from its model, 2 wrong use.",
    )
    commands = parser.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")

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
    export.set_defaults(command=_export)

    verify = commands.add_parser("verify", help="compare artefacts with the .keras model they were made from")
    verify.add_argument("model", metavar="MODEL.keras", help="the model")
    verify.add_argument("artefact", nargs="+", metavar="ARTEFACT", help="a SavedModel directory or an .onnx file")
    verify.add_argument(
        "--tolerance",
        type=float,
        help="largest relative difference allowed (default 1e-4, or 2e-2 with 16-bit layers)",
    )
    verify.set_defaults(command=_verify)
    return parser


if __name__ == "__main__":
    sys.exit(main())
