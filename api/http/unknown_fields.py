"""No more unknown members of a request than are told of: pydantic makes an error of each, and the kill path waits.

Runs in: api. A million of them took it 4 to 9 s.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any

from pydantic import BeforeValidator

FAULTS_MAX = 100
"""In one answer: more than a person reads, and a bound on what a wrong list of a million items costs."""
TOLD_OF = FAULTS_MAX + 1
"""One more than is listed, so that it is seen that there are more."""


def few(members: Any, known: Collection[str] = ()) -> Any:
    """Return an object with the members that are known, and TOLD_OF others at most; anything else as it is."""
    if not isinstance(members, dict) or len(members) <= TOLD_OF:
        return members
    unknown = islice((name for name in members if name not in known), TOLD_OF)
    return {name: members[name] for name in (*(name for name in known if name in members), *unknown)}


FEW = BeforeValidator(few)
"""Of a mapping that may have fewer still."""
