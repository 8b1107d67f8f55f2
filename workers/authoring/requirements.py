"""Which of the packages that a job or preload requires are not installed.

Runs in: zygote, worker.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping


def missing(requires: Mapping[str, str]) -> str:
    """Return which of `requires` (import name -> install line) are not installed, with their install lines, or ""."""
    return "; ".join(f"{name} is not installed: {line}" for name, line in requires.items() if not _is_installed(name))


def _is_installed(name: str) -> bool:
    if sys.modules.get(name) is not None:
        return True
    from importlib.util import find_spec  # here: most jobs require nothing

    return find_spec(name) is not None
