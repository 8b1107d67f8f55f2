"""What was meant by a name that there is not.

Runs in: any.
"""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the nearest of the names that there are, as a question, or all of them."""
    import difflib  # 5 ms at each start of a client, for what few ever see

    names = tuple(known)
    meant = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {meant[0]}?" if meant else f"there are {', '.join(names)}"
