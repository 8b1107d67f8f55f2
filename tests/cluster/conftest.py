"""What a Ray cluster leaves is Ray's: its own processes come and go. Each test looks at the processes of its jobs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """In place of the check of every other test."""
