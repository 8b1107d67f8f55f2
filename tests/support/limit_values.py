"""A value of every limit, so that a new limit is tested with the others.

Runs in: the tests.
"""

from __future__ import annotations

from typing import Any

from killable.workers.authoring.limits_and_caps import LIMITS, Unit

BY_UNIT: dict[Unit, Any] = {Unit.SECONDS: 40.0, Unit.BYTES: 1 << 20, Unit.COUNT: 9}
"""Of a limit that a test gives no value of its own."""


def every_limit(**own: Any) -> dict[str, Any]:
    """Return a value of every limit, in the order of the documents."""
    assert own.keys() <= LIMITS.keys()
    return {name: own[name] if name in own else BY_UNIT[limit.unit] for name, limit in LIMITS.items()}
