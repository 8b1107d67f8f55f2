"""Names: of what letters they are made, and what was meant by one that there is not.

Runs in: any.
"""

from __future__ import annotations

from collections.abc import Iterable

TYPE_NAME = r"[a-z][a-z0-9_-]{0,62}"
"""Of a job type, and of an operation that is declared with it."""
TYPE_NAME_RULE = "a small letter, then at most 62 small letters, digits, _ and -"
OPERATION_NAME = r"[A-Za-z0-9_.-]{1,64}"
OPERATION_PATH = rf"{OPERATION_NAME}(/{OPERATION_NAME})*"
"""`load/download`: of an operation in another one."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the nearest of the names that there are, as a question, or all of them."""
    import difflib  # 5 ms at each start of a client, for what few ever see

    names = tuple(known)
    meant = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {meant[0]}?" if meant else f"there are {', '.join(names)}"
