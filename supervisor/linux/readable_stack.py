"""Format stacks for display. The package's own frames are left out: they do not help a job's author.

Runs in: supervisor. Behind `ports`. Pure.
"""

from __future__ import annotations

import re
import sys

_FAULT = "Fatal Python error: "
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def readable(text: str) -> str:
    """Return a stack with the non-ASCII letters of file and function names, which faulthandler escapes, restored.

    Control characters, and bytes of a path that are not UTF-8, stay escaped.
    """
    return _ESCAPED.sub(_letter, text)


def _letter(escaped: re.Match[str]) -> str:
    number = int(escaped[1] or escaped[2] or escaped[3], 16)
    return chr(number) if number <= sys.maxunicode and chr(number).isprintable() else escaped[0]


def trim(text: str, package_folder: str) -> str:
    """Return the job's own frames of a requested stack, or a line that explains why there are none."""
    kept = job_frames(text, package_folder)
    if kept:
        return kept
    if f'File "{package_folder}/commands/' in text:
        return "The job waited for its command.\n"
    if not is_whole(text):
        return "SIGKILL came before the stack was written.\n"
    return "The signal came before the job function was entered.\n"


def job_frames(text: str, package_folder: str) -> str:
    """Drop the frames of files below `package_folder`, except those of the built-in jobs; empty if no frame is left."""
    ours, builtin = f"{package_folder}/", f"{package_folder}/builtin/"
    kept = []
    for line in text.splitlines():
        _, quote, rest = line.partition('File "')
        path = rest.partition('"')[0]
        if quote and path.startswith(ours) and not path.startswith(builtin):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n" if any('File "' in line for line in kept) else ""


def fault_stack(text: str) -> str:
    """Return the stack that faulthandler wrote when the process died of its own fault; empty if there is none.

    C frames and the list of extension modules are left out: they are the same for every fault of a job.
    """
    _, begin, fault = text.rpartition(_FAULT)
    threads = [part.strip("\n") for part in fault.split("\n\n") if 'File "' in part]
    return "\n\n".join(threads) + "\n" if begin and threads else ""


def is_whole(text: str) -> bool:
    """Return whether a stack is complete. faulthandler writes piece by piece: the main thread comes last, and its
    outermost frame at the end. It shows 100 frames at most, and then `...`.
    """
    return text.endswith((" in <module>\n", "  ...\n"))
