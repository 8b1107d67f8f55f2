"""In which line of a `killable.toml` a value stands, for messages and for the sources of values.

Runs in: supervisor, before it starts. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

Key = tuple[str, ...]

_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_HEADER = re.compile(rf"\s*\[\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def line_numbers(text: str) -> dict[Key, int]:
    """Return the lines of keys and headers; tomllib reports none. Lines of a multi-line text may add wrong ones."""
    lines: dict[Key, int] = {}
    section: Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = _parts(header[1])
            lines.setdefault(section, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault((*section, *_parts(assignment[1])), number)
    return lines


def _parts(spelled: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(_PART, spelled))


def place(file: Path, key: Key, lines: Mapping[Key, int]) -> str:
    """Return `killable.toml:12`, the line of the value or of the inline table that contains it."""
    number = next((lines[key[:length]] for length in range(len(key), 0, -1) if key[:length] in lines), None)
    return str(file) if number is None else f"{file}:{number}"
