"""Runs Pebble's own tests of processes with an Executor below its interface.

Runs in: a program of its own (`python pebble_test_runner.py FOLDER test_process_pool_fork`). It prints lines of JSON.
"""

from __future__ import annotations

import importlib
import sys
import unittest

import pebble_adapter
from foreign_test_result import ReportingResult


class Result(ReportingResult):
    def __init__(self, context: str) -> None:
        super().__init__()
        self._context = context

    def name_of(self, test: unittest.TestCase) -> str:
        """Return `TestProcessPool.test_process_pool_map[fork]`."""
        return f"{super().name_of(test)}[{self._context}]"


def run(folder: str, module_name: str) -> None:
    sys.path.insert(0, folder)
    pebble_adapter.install()
    module = importlib.import_module(module_name)
    unittest.defaultTestLoader.loadTestsFromModule(module).run(Result(module_name.rpartition("_")[2]))


if __name__ == "__main__":
    run(*sys.argv[1:])
