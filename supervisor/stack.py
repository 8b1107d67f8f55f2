"""A stack as it is shown: the job's own frames; ours beneath them say nothing to its author. And a traceback's point.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

import re
import sys

_FAULT = "Fatal Python error: "
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def readable(text: str) -> str:
    """Return a stack with the letters of its files and functions, of which faulthandler escapes what is not ASCII.

    What no text may hold, or nobody sees, stays escaped: bytes of a path that are no UTF-8, control characters.
    """
    return _ESCAPED.sub(_letter, text)


def _letter(escaped: re.Match[str]) -> str:
    number = int(escaped[1] or escaped[2] or escaped[3], 16)
    return chr(number) if number <= sys.maxunicode and chr(number).isprintable() else escaped[0]


def trim(text: str, our_folder: str) -> str:
    """Return the job's own frames of a stack that was asked for, or why there are none."""
    kept = of_job(text, our_folder)
    if kept:
        return kept
    if not is_whole(text):
        return "SIGKILL came before the stack was written.\n"
    return "The signal came before the job function was entered.\n"


def of_job(text: str, our_folder: str) -> str:
    """Drop the frames of files below our folder; the built-in jobs there are jobs like any other.

    Return nothing where no frame is left.
    """
    ours, builtin = f"{our_folder}/", f"{our_folder}/builtin/"
    kept = []
    for line in text.splitlines():
        _, quote, rest = line.partition('File "')
        path = rest.partition('"')[0]
        if quote and path.startswith(ours) and not path.startswith(builtin):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n" if any('File "' in line for line in kept) else ""


def of_fault(text: str) -> str:
    """Return the stack that faulthandler wrote as its process died of a fault of its own; empty: there is none.

    The C frames and the list of extension modules below it are left out: they are the same for every fault of a job.
    """
    _, begin, fault = text.rpartition(_FAULT)
    threads = [part.strip("\n") for part in fault.split("\n\n") if 'File "' in part]
    return "\n\n".join(threads) + "\n" if begin and threads else ""


def is_whole(text: str) -> bool:
    """Tell whether a stack is written to its end: piece by piece, the main thread last, its outermost frame last.

    faulthandler shows 100 frames at most, and then `...`.
    """
    return text.endswith((" in <module>\n", "  ...\n"))


def error_line(text: str) -> str:
    """Return the line of a traceback that names the error: the first one behind the stack; notes may follow it."""
    lines = text.rstrip().splitlines()
    stack = [number for number, line in enumerate(lines) if line.startswith(" ")]
    after = lines[stack[-1] + 1 :] if stack else lines
    return after[0] if after else "no reason is known"


def pointed(text: str) -> str:
    """Return a traceback behind the line that names the error; other words as they are."""
    line = error_line(text)
    return line if text.strip() == line else f"{line}\n{text.rstrip()}"
