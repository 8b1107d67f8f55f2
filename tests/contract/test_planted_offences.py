"""Each check of the sources finds what it is for: an offence is planted in a text, and has to be named."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from contract import (
    test_claims,
    test_faulthandler,
    test_layers,
    test_message_texts,
    test_names,
    test_packages,
    test_requirements,
    test_rooms,
)
from contract.source import CHECKS, ROOT, Check, Source


class Planted(NamedTuple):
    check: Check
    where: str
    text: str
    named: str
    """What the check says of it, or a part of that."""


TEXT = test_message_texts.deciding_by_a_text
FAULTHANDLERS, DUMP_SENDERS = test_faulthandler.faulthandlers, test_faulthandler.senders_of_the_dump_signal
SUPERVISOR, LINUX, WORKER = (
    "supervisor/pools/pool.py",
    "supervisor/linux/worker_process.py",
    "workers/runtime/harness.py",
)
PURE = "supervisor/attempts/resource_limits.py"
MOVE = "def move(job, state):\n    "
OFFENCES = [
    Planted(test_layers.upward_imports, WORKER, "import killable.supervisor.models", "killable.supervisor.models"),
    Planted(test_layers.upward_imports, WORKER, "def late():\n    from killable.api import cli", "killable.api.cli"),
    Planted(test_layers.upward_imports, SUPERVISOR, "from killable.api import cli", "killable.api.cli"),
    Planted(test_layers.upward_imports, SUPERVISOR, "from ..api import cli", "..api.cli"),
    Planted(test_layers.event_loops, WORKER, "import asyncio", ":1"),
    Planted(test_layers.event_loops, WORKER, "def late():\n    from asyncio import run", ":2"),
    Planted(test_layers.states_stored_elsewhere, SUPERVISOR, f"{MOVE}job.state = state", ":2"),
    Planted(test_layers.states_stored_elsewhere, SUPERVISOR, f"{MOVE}self.job.state: int = state", ":2"),
    Planted(test_layers.too_long, SUPERVISOR, "pass\n" * 601, SUPERVISOR),
    Planted(test_layers.too_long, SUPERVISOR, "def long():" + "\n    pass" * 60, f"{SUPERVISOR}:long"),
    Planted(test_layers.saying_nothing_of_where_they_run, SUPERVISOR, '"""Does its job."""', SUPERVISOR),
    Planted(test_layers.naming_one_machine, SUPERVISOR, f"PATH = '{Path.home()}/jobs'", SUPERVISOR),
    Planted(test_layers.naming_one_machine, SUPERVISOR, f"PATH = '{ROOT}/jobs'", SUPERVISOR),
    Planted(test_names.names_with_two_meanings, SUPERVISOR, "class Job:\n    pass", "Job: "),
    Planted(test_packages.against_the_arrows, "supervisor/in_no_package/file.py", "", "in_no_package"),
    Planted(
        test_packages.against_the_arrows, "supervisor/jobs/job.py",
        "if TYPE_CHECKING:\n    from killable.supervisor.attempts.attempt import Attempt", ":2 imports",
    ),
    Planted(test_packages.against_the_arrows, "workers/protocol/frames.py", "import killable.workers.authoring", "ing"),
    Planted(test_packages.against_the_arrows, SUPERVISOR, "from killable import Executor", "api/public"),
    Planted(
        test_packages.in_a_circle, "supervisor/jobs/job.py",
        "if TYPE_CHECKING:\n    from killable.supervisor.jobs.registry import Registry", "supervisor/jobs/job.py",
    ),
    Planted(test_rooms.foreign_imports, WORKER, "import psutil", "psutil"),
    Planted(test_rooms.foreign_imports, "workers/authoring/pydantic_types.py", "import pydantic", "pydantic"),
    Planted(test_rooms.foreign_imports, WORKER, "import cloudpickle", "cloudpickle"),
    Planted(
        test_rooms.needing_cloudpickle, WORKER, "from killable.workers.protocol import pickling", "protocol.pickling"
    ),
    Planted(
        test_rooms.needing_cloudpickle, WORKER, "import killable.workers.runtime.executor_setup", "executor_setup"
    ),
    Planted(test_rooms.impure, PURE, '"""Pure."""\nimport time', "time"),
    Planted(test_rooms.impure, PURE, '"""Decides."""', PURE),
    Planted(test_rooms.impure, SUPERVISOR, '"""Pure."""\nfrom random import choice', "random.choice"),
    Planted(test_rooms.undeclared_system_modules, SUPERVISOR, '"""Behind `ports`."""', SUPERVISOR),
    Planted(test_rooms.undeclared_system_modules, LINUX, '"""A process."""', LINUX),
    Planted(test_rooms.touching_the_system, SUPERVISOR, "import os", "os"),
    Planted(test_rooms.touching_the_system, SUPERVISOR, "def late():\n    from os import kill", "os.kill"),
    Planted(test_rooms.touching_the_system, "supervisor/settings.py", "import signal", "signal"),
    Planted(test_rooms.signals_elsewhere, LINUX, "os.kill(pid, 9)", "os.kill"),
    Planted(test_rooms.signals_elsewhere, LINUX, "from os import kill as end\nend(pid, 9)", "os.kill"),
    Planted(test_rooms.signals_elsewhere, SUPERVISOR, "signal.pidfd_send_signal(pidfd, 9)", "pidfd_send_signal"),
    Planted(test_rooms.signals_elsewhere, "api/cli/commands/ps.py", "os.killpg(pid, 9)", "os.killpg"),
    Planted(test_rooms.signals_elsewhere, WORKER, "os.kill(os.getpid(), 9)", "os.kill"),
    Planted(test_rooms.sleeping, SUPERVISOR, "time.sleep(1)", "time.sleep"),
    Planted(test_rooms.sleeping, LINUX, "async def wait():\n    await asyncio.sleep(1)", "asyncio.sleep"),
    Planted(test_rooms.sleeping, LINUX, "from time import sleep as rest\nrest(1)", "time.sleep"),
    Planted(test_rooms.clocks_elsewhere, SUPERVISOR, "import time", "time"),
    Planted(test_rooms.clocks_elsewhere, SUPERVISOR, "now = loop.time()", "loop.time"),
    Planted(test_rooms.clocks_elsewhere, SUPERVISOR, "now = clock.monotonic()", "monotonic"),
    Planted(test_rooms.clocks_elsewhere, LINUX, "from datetime import datetime as D\nD.now()", "datetime.datetime.now"),
    Planted(FAULTHANDLERS, WORKER, "faulthandler.enable()", "faulthandler.enable()"),
    Planted(FAULTHANDLERS, WORKER, "from faulthandler import enable\nenable()", "faulthandler.enable"),
    Planted(
        FAULTHANDLERS, WORKER,
        "def __init__(self):\n    faulthandler.register(SIGTERM, file=2)", "faulthandler.register(SIGTERM",
    ),
    Planted(FAULTHANDLERS, SUPERVISOR, "def look():\n    faulthandler.dump_traceback()", "look"),
    Planted(test_faulthandler.turned_on_from_outside, LINUX, "ENVIRONMENT = {'PYTHONFAULTHANDLER': '1'}", LINUX),
    Planted(test_faulthandler.turned_on_from_outside, LINUX, "run(['python', '-X', 'faulthandler'])", LINUX),
    Planted(DUMP_SENDERS, LINUX, "def look(self):\n    self._signal(DUMP_SIGNAL)", "look"),
    Planted(DUMP_SENDERS, LINUX, "NUMBERS = [dumps.DUMP_SIGNAL]", "outside of functions"),
    Planted(DUMP_SENDERS, SUPERVISOR, "\nworker.process.dump(1)", f"{SUPERVISOR}:2"),
    Planted(TEXT, SUPERVISOR, "if 'memory' in error.message: pass", "error.message"),
    Planted(TEXT, WORKER, "try: pass\nexcept OSError as e:\n    x = 'busy' in str(e).lower()", "str(e).lower()"),
    Planted(TEXT, SUPERVISOR, "gone = error.args[0] == 'gone'", "error.args[0]"),
    Planted(TEXT, "api/client/stream_resume.py", "lost = answer['detail'].startswith('lost')", "answer['detail']"),
    Planted(TEXT, SUPERVISOR, "import re\nfound = re.search('killed', error.get('message', ''))", "error.get("),
    Planted(TEXT, SUPERVISOR, "lost = problem.detail.partition(':')[0] == 'lost'", "problem.detail.partition"),
    Planted(TEXT, SUPERVISOR, "found = PATTERN.fullmatch(outcome.message)", "outcome.message"),
    Planted(TEXT, SUPERVISOR, "match outcome.message:\n    case 'x': pass", "outcome.message"),
    Planted(test_requirements.not_required, SUPERVISOR, "def late():\n    import numpy", "numpy"),
    Planted(test_requirements.not_required, WORKER, "from no_such_package import x", "no_such_package"),
    Planted(test_requirements.not_required, "workers/builtin/probe.py", "import dask.bag", "dask.bag"),
    Planted(test_claims.unknown_rows, "tests/unit/test_x.py", "pytestmark = pytest.mark.row('B1', 'B99')", "B99"),
]  # fmt: skip


@pytest.mark.parametrize("planted", OFFENCES, ids=lambda planted: f"{planted.check.__name__}-{planted.named}")
def test_a_planted_offence_is_named(planted: Planted) -> None:
    offences = planted.check([Source(ROOT / planted.where, planted.text)])
    assert any(planted.named in offence for offence in offences), offences


def test_each_check_has_its_control() -> None:
    controlled = {planted.check for planted in OFFENCES}
    assert [each.__name__ for each in CHECKS if each not in controlled] == []
