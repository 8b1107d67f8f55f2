"""Histories of everything that may happen, each by a seed: how many there are, and how to see one again."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.fake_network import Trouble
from support.virtual_loop import run

Seen = TypeVar("Seen")

SEED = os.environ.get("KILLABLE_SIM_SEED", "")
"""One again: KILLABLE_SIM_SEED=1234 pytest tests/sim -k history."""
MESSAGES_LATE = (
    Trouble(lost=0.01, doubled=0.05, late=0.05, late_s=0.5),
    Trouble(lost=0.05, doubled=0.2, late=0.2, late_s=2.0),
    Trouble(lost=0.02, doubled=0.3, late=0.1, late_s=20.0),
)
"""What becomes of messages between a head and its nodes."""


def seeds(number: int, *, each_test: int) -> Any:
    """Run a test once for `each_test` seeds, with the first of them; by hand KILLABLE_SIM_SEEDS of them, or one.

    What is done after every test (nothing is left) takes longer than a history.
    """
    number = int(os.environ.get("KILLABLE_SIM_SEEDS", number))
    firsts = [int(SEED)] if SEED else range(0, number, each_test)
    groups = [range(first, first + (1 if SEED else each_test)) for first in firsts]
    return pytest.mark.parametrize("seeds", groups, ids=lambda group: f"{group.start}on")


def play(history: Callable[[int], Coroutine[Any, Any, Seen]], seed: int, file: str, environment: str = "") -> Seen:
    """Return what was seen of a history on virtual time; a failure says how to see it again."""
    try:
        return run(history(seed))
    except BaseException as error:
        error.add_note(f"again: {environment}KILLABLE_SIM_SEED={seed} pytest tests/sim/{Path(file).name} -k history")
        raise
