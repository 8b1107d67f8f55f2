"""The faults of a request: where each is, and what is wrong with it.

Runs in: api, and in the processes that check inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from killable.workers.errors import Refused

FAULTS_MAX = 100
"""Faults in one answer: more than a person reads, and a bound on the cost of a wrong list of a million items."""
DETAIL_FAULTS_MAX = 3
"""Faults in `detail`, which is for people; `faults` has all of them."""
TOKEN_CHARS_MAX = 100
"""Characters of one member's name in a pointer: enough for a person to find it, too few to send an input back."""


def pointer(path: Iterable[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) of a path, with each step cut to TOKEN_CHARS_MAX."""
    return "".join("/" + cut(str(step)).replace("~", "~0").replace("/", "~1") for step in path)


def fault(where: str, path: Iterable[str | int], message: str) -> dict[str, str]:
    """Return one fault. `where` is body, query, path or header; the pointer is relative to it."""
    return {"in": where, "pointer": pointer(path), "message": message}


def invalid(faults: Sequence[dict[str, str]], more: bool = False) -> Refused:
    """Return the refusal of a request with these faults. `more`: other faults were left out."""
    told = "; ".join(
        f"{each['in']} {each['pointer']}".rstrip() + f": {each['message']}" for each in faults[:DETAIL_FAULTS_MAX]
    )
    count = f"{len(faults)}{' or more' if more else ''} faults: " if len(faults) > 1 else ""
    rest = "; ..." if len(faults) > DETAIL_FAULTS_MAX else ""
    return Refused(f"{count}{told}{rest}", code="invalid", faults=list(faults))


def cut(text: str, chars_max: int = TOKEN_CHARS_MAX) -> str:
    """Return the text, or its beginning with an ellipsis."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
