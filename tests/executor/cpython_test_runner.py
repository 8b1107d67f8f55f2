"""Runs CPython's own tests of `ProcessPoolExecutor` with `killable.Executor` in its place.

Runs in: a program of its own (`python cpython_test_runner.py test_wait`), because those tests check all children and
threads of their process. It prints lines of JSON.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import sys
import unittest
from collections.abc import Iterator

from foreign_test_result import ReportingResult
from test import support
from test.support import script_helper

from killable import Executor

PACKAGE = "test.test_concurrent_futures"
IN_PROGRAMS = """
import concurrent.futures, multiprocessing, killable
concurrent.futures.ProcessPoolExecutor = killable.Executor
"""
"""Before the programs that the tests of shutdown start. They use multiprocessing without its import."""


class ProcessPoolExecutor(Executor):
    """The programs of those tests import the class by its name."""


class Result(ReportingResult):
    def name_of(self, test: unittest.TestCase) -> str:
        """Return `ExecutorShutdown.test_hang_issue12364[fork]`: which tests, and with which context."""
        context: str = test.ctx  # type: ignore[attr-defined]
        group = type(test).__name__.removeprefix(f"ProcessPool{context.capitalize()}").removesuffix("Test")
        return f"{group}.{test._testMethodName}[{context}]"

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        support.environment_altered = False

    def stopTest(self, test: unittest.TestCase) -> None:
        if support.environment_altered:
            self.bad.append("it leaves threads or processes behind")
        super().stopTest(test)


def with_ours(tests: unittest.TestSuite | unittest.TestCase) -> Iterator[unittest.TestCase]:
    """Yield the tests of executors of processes."""
    if isinstance(tests, unittest.TestSuite):
        for each in tests:
            yield from with_ours(each)
    elif getattr(tests, "executor_type", None) is ProcessPoolExecutor:
        yield tests


def run(module_name: str) -> None:
    support.verbose = 0  # or it prints times
    started = script_helper.assert_python_ok
    script_helper.assert_python_ok = lambda option, program: started(option, IN_PROGRAMS + program)
    try:
        mixins = importlib.import_module(f"{PACKAGE}.util")
    except ModuleNotFoundError:  # until 3.11 all is in one module
        mixins = importlib.import_module(PACKAGE)
    for context in ("Fork", "Forkserver", "Spawn"):
        getattr(mixins, f"ProcessPool{context}Mixin").executor_type = ProcessPoolExecutor
    module = importlib.import_module(f"{PACKAGE}.{module_name}" if module_name else PACKAGE)
    # Another class than `executor_type`: a test that the library's own executor does not pass leaves that one out.
    concurrent.futures.ProcessPoolExecutor = Executor  # type: ignore[misc]
    chosen = unittest.TestSuite(with_ours(unittest.defaultTestLoader.loadTestsFromModule(module)))
    chosen.run(Result())


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else "")
