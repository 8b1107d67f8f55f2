"""Functions over arrays that tests submit to an Executor: a worker that imports them imports numpy and no pytest.

Runs in: worker.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def total(values: np.ndarray, *_: object) -> float:
    return float(values.sum())


def last_of(number: int, values: Any) -> tuple[int, Any]:
    return number, values[len(values) - 1]


def write(array: np.ndarray) -> float:
    array += 1.0
    return float(array[0])


def hang(array: np.ndarray, started: str) -> None:
    Path(started).touch()
    while True:
        array.sum()


def die_once(array: np.ndarray, marker: str) -> float:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(array.sum())


def arrays(number: int) -> Iterator[np.ndarray]:
    for _ in range(number):
        yield np.zeros(100_000)


def describe(array: np.ndarray) -> tuple[bool, int]:
    """Return whether it is aligned, and its size in bytes."""
    return bool(array.flags.aligned), memoryview(array).nbytes


def fill_up_to(file_bytes_max: int, elements: int, value: float) -> np.ndarray:
    """Bound the files of this process, or with 0 do not, and return an array."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max if file_bytes_max else hard, hard))
    return np.full(elements, value)
