"""What a program that runs somebody else's unittests tells the test that started it: a line of JSON for each.

Runs in: such a program (writes) | pytest (reads).
"""

from __future__ import annotations

import json
import subprocess
import sys
import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any


def report(**facts: Any) -> None:
    print(json.dumps(facts), file=sys.__stdout__, flush=True)


class ReportingResult(unittest.TestResult):
    """Says at once what happened: whoever waits for a test that hangs knows its name."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        """What is wrong with the test that runs."""

    def name_of(self, test: unittest.TestCase) -> str:
        return f"{type(test).__name__}.{test._testMethodName}"

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.bad = []
        report(begins=self.name_of(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        report(name=self.name_of(test), bad=self.bad)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.bad.append(self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.bad.append(self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.bad.append(self._exc_info_to_string(err, test))  # type: ignore[attr-defined]


def check(
    program: Path,
    arguments: Sequence[str],
    not_passed: Mapping[str, str],
    hung_s: float,
    by_chance: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run a program. Raise AssertionError for a test that fails and is not listed, or is listed and passes.

    `not_passed`: the reasons, by the name of the test, or what stands before the `[` in it. `by_chance`: of those that
    pass or not.
    """
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        stdout=subprocess.PIPE, text=True, timeout=hung_s, cwd=program.parent,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    bad = {each["name"]: each["bad"] for each in told if "name" in each}
    assert bad and done.returncode == 0 and "name" in told[-1], told[-1:]
    for name in by_chance:
        bad = {each: why for each, why in bad.items() if each.partition("[")[0] != name}
    listed = {name for name in bad if name in not_passed or name.partition("[")[0] in not_passed}
    passed = [name for name, why in bad.items() if not why]
    print(len(bad), "ran,", len(passed), "passed")
    not_listed = [f"{name}: {each}" for name, why in bad.items() if name not in listed for each in why]
    assert not not_listed, "\n".join(not_listed)
    assert [name for name in passed if name in listed] == []
