"""The command `keras-netvlad`."""

import logging
import os
import sys
from collections.abc import Sequence

from keras_netvlad.cli.errors import report
from keras_netvlad.cli.parser import make_parser
from keras_netvlad.cli.stage_lines import stage_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses a command line, calls one function of the library and prints the result.

    Args:
        arguments: The words of the command line, or `None` for those of the process.

    Returns:
        The exit code: 0 if the command succeeded, 1 if an artifact differs from its model or a video could not be read,
        2 for wrong use, 3 for a bug in this package.
    """
    options = make_parser().parse_args(arguments)
    # TensorFlow reads this variable when it is imported; its remarks about the machine do not belong to the answer.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        if options.debug:
            import keras

            keras.config.disable_traceback_filtering()
        with stage_lines(options.command_name):
            return options.command(options)
    except Exception as error:
        return report(error, options.command_name, options.debug)


if __name__ == "__main__":
    sys.exit(main())
