"""A stack as it is shown: the job's own frames; ours beneath them say nothing to its author.

Runs in: supervisor. Pure.
"""

from __future__ import annotations


def trim(text: str, our_folder: str) -> str:
    """Drop the frames of files that lie directly in our folder; the built-in jobs below it are jobs like any other."""
    kept = []
    for line in text.splitlines():
        _, quote, rest = line.partition('File "')
        path = rest.partition('"')[0]
        if quote and path.rpartition("/")[0] == our_folder:
            continue
        kept.append(line)
    if not any('File "' in line for line in kept):
        if not is_whole(text):
            return "SIGKILL came before the stack was written.\n"
        return "The signal came before the job function was entered.\n"
    return "\n".join(kept) + "\n"


def is_whole(text: str) -> bool:
    """Tell whether a stack is written to its end: piece by piece, the main thread last, its outermost frame last.

    faulthandler shows 100 frames at most, and then `...`.
    """
    return text.endswith((" in <module>\n", "  ...\n"))
