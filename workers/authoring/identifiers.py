"""Patterns of names, and suggestions for unknown ones.

Runs in: any.
"""

from __future__ import annotations

from collections.abc import Iterable

TYPE_NAME = r"[a-z][a-z0-9_-]{0,62}"
"""A job type's name, and that of an operation declared with it."""
TYPE_NAME_RULE = "a small letter, then at most 62 small letters, digits, _ and -"
OPERATION_NAME = r"[A-Za-z0-9_.-]{1,64}"
OPERATION_PATH = rf"{OPERATION_NAME}(/{OPERATION_NAME})*"
"""The path of an operation inside others: `load/download`."""

KEY_NAME = r"[A-Za-z0-9_.-]{1,64}"
"""The name of an API key, which is a tenant."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the closest of the known names, as a question, or a list of all."""
    import difflib  # here: at the top it would cost each start of a client 5 ms, and it is rarely used

    names = tuple(known)
    meant = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {meant[0]}?" if meant else f"there are {', '.join(names)}"
