"""The command `keras-netvlad`."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from keras_netvlad.cli.errors import report, report_signal
from keras_netvlad.cli.native_log import quiet_native_log
from keras_netvlad.cli.parser import make_parser
from keras_netvlad.cli.process import protect_output, stop_signals
from keras_netvlad.cli.stage_lines import stage_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses a command line, calls one function of the library and prints the result.

    Args:
        arguments: The words of the command line, or `None` for those of the process. For those of the process, signals
            and closed pipes are handled as well.

    Returns:
        The exit code: 0 if the command succeeded, 1 if an artifact differs from its model or a video could not be read,
        2 for wrong use, 3 for a bug in this package, 130 after Ctrl-C and 143 after SIGTERM.
    """
    if arguments is not None:
        return _run(arguments, [])
    protect_output()
    # `--debug` also shows TensorFlow's log.
    quiet = contextlib.nullcontext() if "--debug" in sys.argv else quiet_native_log()
    with quiet, stop_signals() as received:
        return _run(sys.argv[1:], received)


def _run(arguments: Sequence[str], received: Sequence[int]) -> int:
    """Runs a command line. `received` holds a signal after one came."""
    options = make_parser().parse_args(arguments)
    # TensorFlow reads this variable when it is imported; its messages about the machine are not part of the output.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        if options.debug:
            import keras

            keras.config.disable_traceback_filtering()
        with stage_lines(options.command_name):
            code = options.command(options)
    except BaseException as error:
        if received:  # A library may have replaced the exception of the signal by another one.
            return report_signal(received[0], options.command_name)
        if not isinstance(error, Exception):
            raise
        return report(error, options.command_name, options.debug)
    return report_signal(received[0], options.command_name) if received else code


if __name__ == "__main__":
    sys.exit(main())
