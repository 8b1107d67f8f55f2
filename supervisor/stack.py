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
        return "The signal came before the job function was entered.\n"
    return "\n".join(kept) + "\n"
