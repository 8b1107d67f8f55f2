"""Each check of the sources finds what it is for: an offence is planted in a text, and has to be named."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from contract import (
    test_allowed_imports,
    test_claims,
    test_faulthandler,
    test_file_sizes,
    test_layers,
    test_message_texts,
    test_names,
    test_packages,
    test_requirements,
)
from contract.source import CHECKS, ROOT, Check, Source


class Planted(NamedTuple):
    check: Check
    where: str
    text: str
    named: str
    """What the check says of it, or a part of that."""


def planted(check: Check, *offences: tuple[str, str, str]) -> list[Planted]:
    """Return what one check has to name: of each offence the file, its text, and what is said of it."""
    return [Planted(check, *offence) for offence in offences]


TEXT = test_message_texts.deciding_by_a_text
FAULTHANDLERS, DUMP_SENDERS = test_faulthandler.faulthandlers, test_faulthandler.senders_of_the_dump_signal
SUPERVISOR, LINUX, WORKER = (
    "supervisor/pools/pool.py",
    "supervisor/linux/worker_process.py",
    "workers/runtime/worker_loop.py",
)
PURE = "supervisor/attempts/resource_limits.py"
MOVE = "def move(job, state):\n    "
OFFENCES = [
    *planted(
        test_layers.upward_imports,
        (WORKER, "import killable.supervisor.models", "killable.supervisor.models"),
        (WORKER, "def late():\n    from killable.api import cli", "killable.api.cli"),
        (SUPERVISOR, "from killable.api import cli", "killable.api.cli"),
        (SUPERVISOR, "from ..api import cli", "..api.cli"),
    ),
    *planted(
        test_layers.event_loops,
        (WORKER, "import asyncio", ":1"),
        (WORKER, "def late():\n    from asyncio import run", ":2"),
    ),
    *planted(
        test_layers.states_stored_elsewhere,
        (SUPERVISOR, f"{MOVE}job.state = state", ":2"),
        (SUPERVISOR, f"{MOVE}self.job.state: int = state", ":2"),
    ),
    *planted(
        test_file_sizes.too_long,
        (SUPERVISOR, "pass\n" * 601, SUPERVISOR),
        (SUPERVISOR, "def long():" + "\n    pass" * 60, f"{SUPERVISOR}:long"),
    ),
    *planted(
        test_layers.saying_nothing_of_where_they_run,
        (SUPERVISOR, '"""Does its job."""', SUPERVISOR),
    ),
    *planted(
        test_layers.naming_one_machine,
        (SUPERVISOR, f"PATH = '{Path.home()}/jobs'", SUPERVISOR),
        (SUPERVISOR, f"PATH = '{ROOT}/jobs'", SUPERVISOR),
    ),
    *planted(
        test_names.names_with_two_meanings,
        (SUPERVISOR, "class Job:\n    pass", "Job: "),
    ),
    *planted(
        test_packages.against_the_arrows,
        ("supervisor/in_no_package/file.py", "", "in_no_package"),
        (
            "supervisor/jobs/job.py",
            "if TYPE_CHECKING:\n    from killable.supervisor.attempts.attempt import Attempt",
            ":2 imports",
        ),
        ("workers/protocol/frames.py", "import killable.workers.authoring", "ing"),
        (SUPERVISOR, "from killable import Executor", "api/public"),
    ),
    *planted(
        test_packages.in_a_circle,
        (
            "supervisor/jobs/job.py",
            "if TYPE_CHECKING:\n    from killable.supervisor.jobs.registry import Registry",
            "supervisor/jobs/job.py",
        ),
    ),
    *planted(
        test_allowed_imports.foreign_imports,
        (WORKER, "import psutil", "psutil"),
        ("workers/authoring/pydantic_types.py", "import pydantic", "pydantic"),
        (WORKER, "import cloudpickle", "cloudpickle"),
        (WORKER, "from opentelemetry import trace", "opentelemetry.trace"),
    ),
    *planted(
        test_allowed_imports.needing_cloudpickle,
        (WORKER, "from killable.workers.protocol import pickling", "protocol.pickling"),
        (WORKER, "import killable.workers.runtime.executor_setup", "executor_setup"),
    ),
    *planted(
        test_allowed_imports.needing_opentelemetry,
        (WORKER, "from killable.workers.authoring import otel_context", "authoring.otel_context"),
    ),
    *planted(
        test_allowed_imports.impure,
        (PURE, '"""Pure."""\nimport time', "time"),
        (PURE, '"""Decides."""', PURE),
        (SUPERVISOR, '"""Pure."""\nfrom random import choice', "random.choice"),
    ),
    *planted(
        test_allowed_imports.undeclared_system_modules,
        (SUPERVISOR, '"""Behind `ports`."""', SUPERVISOR),
        (LINUX, '"""A process."""', LINUX),
    ),
    *planted(
        test_allowed_imports.touching_the_system,
        (SUPERVISOR, "import os", "os"),
        (SUPERVISOR, "def late():\n    from os import kill", "os.kill"),
        ("supervisor/settings.py", "import signal", "signal"),
    ),
    *planted(
        test_allowed_imports.signals_elsewhere,
        (LINUX, "os.kill(pid, 9)", "os.kill"),
        (LINUX, "from os import kill as end\nend(pid, 9)", "os.kill"),
        (SUPERVISOR, "signal.pidfd_send_signal(pidfd, 9)", "pidfd_send_signal"),
        ("api/cli/commands/ps.py", "os.killpg(pid, 9)", "os.killpg"),
        (WORKER, "os.kill(os.getpid(), 9)", "os.kill"),
    ),
    *planted(
        test_allowed_imports.sleeping,
        (SUPERVISOR, "time.sleep(1)", "time.sleep"),
        (LINUX, "async def wait():\n    await asyncio.sleep(1)", "asyncio.sleep"),
        (LINUX, "from time import sleep as rest\nrest(1)", "time.sleep"),
    ),
    *planted(
        test_allowed_imports.clocks_elsewhere,
        (SUPERVISOR, "import time", "time"),
        (SUPERVISOR, "now = loop.time()", "loop.time"),
        (SUPERVISOR, "now = clock.monotonic()", "monotonic"),
        (LINUX, "from datetime import datetime as D\nD.now()", "datetime.datetime.now"),
    ),
    *planted(
        FAULTHANDLERS,
        (WORKER, "faulthandler.enable()", "faulthandler.enable()"),
        (WORKER, "from faulthandler import enable\nenable()", "faulthandler.enable"),
        (WORKER, "def __init__(self):\n    faulthandler.register(SIGTERM, file=2)", "faulthandler.register(SIGTERM"),
        (SUPERVISOR, "def look():\n    faulthandler.dump_traceback()", "look"),
    ),
    *planted(
        test_faulthandler.turned_on_from_outside,
        (LINUX, "ENVIRONMENT = {'PYTHONFAULTHANDLER': '1'}", LINUX),
        (LINUX, "run(['python', '-X', 'faulthandler'])", LINUX),
    ),
    *planted(
        DUMP_SENDERS,
        (LINUX, "def look(self):\n    self._signal(DUMP_SIGNAL)", "look"),
        (LINUX, "NUMBERS = [dumps.DUMP_SIGNAL]", "outside of functions"),
        (SUPERVISOR, "\nworker.process.dump(1)", f"{SUPERVISOR}:2"),
    ),
    *planted(
        TEXT,
        (SUPERVISOR, "if 'memory' in error.message: pass", "error.message"),
        (WORKER, "try: pass\nexcept OSError as e:\n    x = 'busy' in str(e).lower()", "str(e).lower()"),
        (SUPERVISOR, "gone = error.args[0] == 'gone'", "error.args[0]"),
        ("api/client/stream_resume.py", "lost = answer['detail'].startswith('lost')", "answer['detail']"),
        (SUPERVISOR, "import re\nfound = re.search('killed', error.get('message', ''))", "error.get("),
        (SUPERVISOR, "lost = problem.detail.partition(':')[0] == 'lost'", "problem.detail.partition"),
        (SUPERVISOR, "found = PATTERN.fullmatch(outcome.message)", "outcome.message"),
        (SUPERVISOR, "match outcome.message:\n    case 'x': pass", "outcome.message"),
    ),
    *planted(
        test_requirements.not_required,
        (SUPERVISOR, "def late():\n    import numpy", "numpy"),
        (WORKER, "from no_such_package import x", "no_such_package"),
        ("workers/builtin/probe.py", "import dask.bag", "dask.bag"),
    ),
    *planted(
        test_claims.unknown_rows,
        ("tests/unit/test_x.py", "pytestmark = pytest.mark.row('B1', 'B99')", "B99"),
    ),
]


@pytest.mark.parametrize("offence", OFFENCES, ids=lambda offence: f"{offence.check.__name__}-{offence.named}")
def test_a_planted_offence_is_named(offence: Planted) -> None:
    offences = offence.check([Source(ROOT / offence.where, offence.text)])
    assert any(offence.named in said for said in offences), offences


def test_each_check_has_its_control() -> None:
    controlled = {offence.check for offence in OFFENCES}
    assert [each.__name__ for each in CHECKS if each not in controlled] == []
