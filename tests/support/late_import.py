"""A module that is imported when a test first needs it.

Each process of pytest-xdist imports all test files, and most run no test of the few that need the large packages.
"""

from __future__ import annotations

import importlib
from typing import Any


class LateImport:
    """Stands for a module at the top of a test file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks everything at the top of a file for such names
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
