"""Drops unknown members of a request beyond the number reported: pydantic makes an error of each; the kill path waits.

Runs in: api. A million unknown members took pydantic 4 to 9 s.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any

from pydantic import BeforeValidator

from killable.api.http.request_faults import FAULTS_MAX

UNKNOWN_MEMBERS_MAX = FAULTS_MAX + 1
"""One more than an answer lists, which shows that there are more."""


def few(members: Any, known: Collection[str] = ()) -> Any:
    """Return an object with its known members and UNKNOWN_MEMBERS_MAX others; return anything else unchanged."""
    if not isinstance(members, dict) or len(members) <= UNKNOWN_MEMBERS_MAX:
        return members
    unknown = islice((name for name in members if name not in known), UNKNOWN_MEMBERS_MAX)
    return {name: members[name] for name in (*(name for name in known if name in members), *unknown)}


FEW = BeforeValidator(few)
"""For a mapping whose own maximum is lower (tags, operations)."""
