"""Tells mistakes of the user from bugs of this package, and reports both."""

import dis
import signal
import sys
import traceback

DONE, DIFFERS, WRONG_USE, INTERNAL_ERROR = 0, 1, 2, 3
UNREADABLE = 1
# As a shell reports it: 128 and the number of the signal.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

PACKAGE = "keras_netvlad"
RAISE = dis.opmap["RAISE_VARARGS"]


def report(error: Exception, command: str, debug: bool) -> int:
    """Prints an error that ended a command.

    Args:
        error: The exception.
        command: Name of the command.
        debug: Boolean, whether to print the stack trace, too.

    Returns:
        The exit code: 2 for a mistake of the user, 3 for a bug.
    """
    if debug:
        traceback.print_exception(error)
    if is_expected(error):
        print(f"keras-netvlad {command}: {str(error) or type(error).__name__}", file=sys.stderr)  # cli
        return WRONG_USE
    reason = (str(error).strip().splitlines() or [""])[0]
    print(  # cli
        f"keras-netvlad {command}: internal error ({type(error).__name__}: {reason}). This is a bug in keras_netvlad; "
        f"please report it{'' if debug else '. Run the command again with --debug for the stack trace'}.",
        file=sys.stderr,
    )
    return INTERNAL_ERROR


def report_signal(number: int, command: str) -> int:
    """Prints that a signal ended a command.

    Args:
        number: `signal.SIGINT` or `signal.SIGTERM`.
        command: Name of the command.

    Returns:
        The exit code: 130 or 143.
    """
    if number == signal.SIGINT:
        print(f"keras-netvlad {command}: interrupted", file=sys.stderr)  # cli
        return INTERRUPTED
    print(f"keras-netvlad {command}: terminated", file=sys.stderr)  # cli
    return TERMINATED


def is_expected(error: Exception) -> bool:
    """Returns whether an error describes a mistake of the user or of the machine, not a bug.

    Two kinds of errors are expected:

    - errors of the operating system, such as a missing file, a full disk or too little memory;
    - errors that a `raise` statement of this package raised: its checks of arguments and files say what was wrong.

    A `ValueError` or `TypeError` that comes from an expression of this package or from a library is a bug, because the
    checks should have found the mistake first.

    Args:
        error: A caught exception, with its traceback.

    Returns:
        Boolean.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        return True
    if not isinstance(error, (ValueError, TypeError, OSError, ImportError, RuntimeError)):
        return False
    if isinstance(error, NotImplementedError):
        return False
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None:
        return False
    module = str(innermost.tb_frame.f_globals.get("__name__"))
    is_raise = innermost.tb_frame.f_code.co_code[innermost.tb_lasti] == RAISE
    return is_raise and module.split(".")[0] == PACKAGE
