"""Functions that print, log, warn and report, for the tests of what comes of it in the program. They are importable.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import signal
import sys
import threading
import warnings
from typing import NoReturn

from executor_tasks import wait_for

from killable import Context

logger = logging.getLogger("talking.tasks")


class OwnWarning(UserWarning):
    """A category of the program."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class NotPrinted:
    """Counts in its repr how often somebody looked at it."""

    def __init__(self) -> None:
        self.looks = 0
        self.lock = threading.Lock()  # cannot be pickled

    def __str__(self) -> str:
        self.looks += 1
        return "looked at"


def print_to_both() -> None:
    print("to stdout")
    os.write(1, b"past Python\n")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("caf\u00e9, no line end")


def print_and_wait(path: str) -> None:
    print("before")
    print("half of", end=" ", flush=True)
    wait_for(path)
    print("a line")


def print_lines(number: int) -> None:
    for line in range(number):
        print(f"{line:063}")


def print_for_ever() -> NoReturn:
    while True:
        print("for ever " * 100)


def print_and_die() -> None:
    print("last words", file=sys.stderr)
    print("no line end", end="", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def crash_after_words() -> None:
    for number in range(30):
        print(f"line {number}", file=sys.stderr)
    ctypes.string_at(0)


def log_at_all_levels() -> tuple[int, bool]:
    """Return how often what is below the level was formatted, and whether debugging is on."""
    unseen, seen = NotPrinted(), NotPrinted()
    logger.debug("not sent: %s", unseen)
    logger.info("sent: %s", seen, extra={"number": 7, "lock": threading.Lock()})
    try:
        raise ValueError("no luck")
    except ValueError:
        logger.exception("it failed")
    logging.getLogger("talking.other").error("100%")
    return unseen.looks, logger.isEnabledFor(logging.DEBUG)


def log_in_order(number: int) -> None:
    for each in range(number):
        logger.warning("%d", each)


def log_and_die() -> None:
    logger.warning("before the kill")
    os.kill(os.getpid(), signal.SIGKILL)


def log_badly_and_well() -> None:
    logger.warning("%d", "no number")
    logger.warning("well")


def log_in_child() -> None:
    import multiprocessing

    logger.warning("in the call")
    child = multiprocessing.get_context("fork").Process(target=logger.warning, args=("in its child",))
    child.start()
    child.join()


def warn_in_loop(number: int) -> int:
    for _ in range(number):
        warnings.warn("again", UserWarning, stacklevel=1)
    warnings.warn(OwnWarning(5), stacklevel=1)
    return sys._getframe().f_lineno - 1


def raise_what_is_warned() -> str:
    try:
        warnings.warn("an error", RuntimeWarning, stacklevel=1)
    except RuntimeWarning as error:
        return f"raised {error}"
    return "not raised"


def report(ctx: Context, number: int, path: str = "") -> None:
    for done in range(number):
        ctx.progress(done + 1, number, "rows")
    if path:
        wait_for(path)


def close_outputs() -> int:
    os.close(1)
    os.close(2)
    return os.getpid()


def redirect_outputs() -> int:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return os.getpid()


def detach_streams() -> int:
    io.TextIOWrapper(sys.stdout.detach()).write("")
    sys.stderr.detach()
    return os.getpid()


def close_streams() -> int:
    sys.stdout.close()
    sys.stderr.close()
    return os.getpid()
