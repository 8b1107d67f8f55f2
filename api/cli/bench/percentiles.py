"""The middle and the percentiles of measured values.

Runs in: a benchmark | a trial. Pure. Standard library only: workers are forked from a trial and inherit its imports.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that is not below `percent` of all (nearest rank); None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
