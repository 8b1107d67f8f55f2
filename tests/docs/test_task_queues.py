"""The recipes for task queues with the real packages: a cancel or a time limit of the queue ends the native call.

Celery's worker and Temporal's activity run here; Airflow, and a server of Temporal, are by hand: `make test-recipes`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from documents import ROOT, blocks_of
from support.processes import main_thread_cpu_s, read_process
from support.waiting import Pending, until

PAGE = ROOT / "docs" / "how-to" / "task-queues.md"
AIRFLOW = ROOT / ".venv" / "airflow" / "bin" / "python"
TEMPORAL_SERVER = ROOT / ".venv" / "temporal" / "bin" / "temporal-test-server"
FILES = ("tasks.py", "dags/keys.py", "dags/operators.py", "activities.py", "workflows.py")
"""Of the page, beside those of its pattern."""
FOR_EVER = 10**9
"""Rounds of one native call: many minutes."""
NOTING = """

_derive = derive


def derive(password: str, rounds: int) -> str:
    if rounds == {for_ever}:
        import os
        import pathlib

        note = pathlib.Path("{note}")
        note.with_suffix(".new").write_text(str(os.getpid()))
        note.with_suffix(".new").rename(note)
    return _derive(password, rounds)
"""
CELERY_CONFIG = """
broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
result_backend = "file://" + __import__("os").path.abspath("results")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all files of the page."""
    texts = {block.file_name: block.text for block in blocks_of(PAGE) if block.file_name is not None}
    for name in ("work.py", "patterns.py", *FILES):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(texts[name])
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "celeryconfig.py").write_text(CELERY_CONFIG)
    return tmp_path


class NativeCall:
    """The call that is to be stopped. It says which process it has before it begins."""

    def __init__(self, folder: Path) -> None:
        self._note = folder / "call.pid"
        work = folder / "work.py"
        work.write_text(work.read_text() + NOTING.format(note=str(self._note), for_ever=FOR_EVER))

    def pid(self) -> int:
        """Return its process, once it is inside the native call; or was: a limit may have ended it."""
        until(lambda: self._note.exists() or Pending("no call"), "a call has begun")
        pid = int(self._note.read_text())
        self._note.unlink()
        if read_process(pid) is not None:
            until(lambda: read_process(pid) is None or main_thread_cpu_s(pid) > 0.2 or Pending(pid), "it computes")
        return pid


@pytest.fixture
def native(folder: Path) -> NativeCall:
    return NativeCall(folder)


def is_gone(pid: int) -> None:
    until(lambda: read_process(pid) is None or Pending(read_process(pid)), "the process of the call is gone")


# ── Celery ──

CELERY_CLIENT = """
import sys
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from tasks import derive

print(derive.delay(1000).get(timeout=200)[:8], flush=True)
for rounds, options, end in (
    (ROUNDS, {"soft_time_limit": 3}, None),
    (ROUNDS, {"time_limit": 3}, None),
    (ROUNDS, {}, "SIGUSR1"),
    (ROUNDS, {}, "SIGTERM"),
):
    task = derive.apply_async((rounds,), **options)
    sys.stdin.readline()  # it runs, or has run
    if end is not None:
        task.revoke(terminate=True, signal=end)
    try:
        task.get(timeout=200)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def celery_worker(folder: Path, native: NativeCall) -> Iterator[subprocess.Popen[str]]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "1",
         "--loglevel", "error", "--without-gossip", "--without-mingle"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder), "C_FORCE_ROOT": "1"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield worker
    below = psutil.Process(worker.pid).children(recursive=True)
    worker.terminate()
    worker.wait(timeout=240)
    until(lambda: not any(each.is_running() for each in below) or Pending(below), "nothing of Celery is left")


def test_celerys_limits_and_revokes_end_the_native_call(
    folder: Path, native: NativeCall, celery_worker: subprocess.Popen[str]
) -> None:
    (folder / "program.py").write_text(CELERY_CLIENT.replace("ROUNDS", str(FOR_EVER)))
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdin is not None and client.stdout is not None
        assert client.stdout.readline() == "f76f7238\n"
        for ends in ("SoftTimeLimitExceeded", "TimeLimitExceeded", "TaskRevokedError", "TaskRevokedError"):
            pid = native.pid()
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline() == f"{ends}\n"
            is_gone(pid)


# ── Temporal ──

ACTIVITY = """
import asyncio, sys
from types import SimpleNamespace
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
import activities

async def main():
    environment = ActivityEnvironment()
    beats = []
    environment.on_heartbeat = lambda *details: beats.append(details)
    print((await environment.run(activities.derive, 1000))[:8], flush=True)
    running = asyncio.ensure_future(environment.run(activities.derive, ROUNDS))
    await asyncio.to_thread(sys.stdin.readline)
    environment.cancel()
    try:
        await running
    except asyncio.CancelledError:
        print("cancelled", len(beats) > 0, flush=True)
    executor = activities.executor
    activities.executor = SimpleNamespace(with_limits=lambda run_s: executor.with_limits(run_s=1))
    try:
        await ActivityEnvironment().run(activities.derive, ROUNDS)
    except ApplicationError as error:
        print(error.type, error.non_retryable, flush=True)

asyncio.run(main())
"""


def test_a_cancelled_activity_of_temporal_ends_the_native_call(folder: Path, native: NativeCall) -> None:
    (folder / "program.py").write_text(ACTIVITY.replace("ROUNDS", str(FOR_EVER)))
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "f76f7238\n"
        call = native.pid()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "cancelled True\n"
        assert read_process(call) is None  # the activity has waited for that
        assert program.stdout.readline() == "timeout.run True\n"
    assert program.returncode == 0


WORKFLOW = """
import asyncio, os, sys
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
import activities, workflows

async def main():
    server = await WorkflowEnvironment.start_time_skipping(test_server_existing_path=os.environ["SERVER"])
    async with server as environment:
        client = environment.client
        async with Worker(client, task_queue="q", workflows=[workflows.DeriveKey], activities=[activities.derive]):
            run = workflows.DeriveKey.run
            print(">", (await client.execute_workflow(run, 1000, id="short", task_queue="q"))[:8], flush=True)
            handle = await client.start_workflow(run, ROUNDS, id="long", task_queue="q")
            await asyncio.to_thread(sys.stdin.readline)
            await handle.cancel()
            try:
                await handle.result()
            except WorkflowFailureError as error:
                print(">", type(error.cause).__name__, flush=True)
    activities.executor.shutdown()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.recipes
def test_a_cancelled_workflow_goes_on_when_the_native_call_is_dead(folder: Path, native: NativeCall) -> None:
    (folder / "program.py").write_text(WORKFLOW.replace("ROUNDS", str(FOR_EVER)))
    environment = os.environ | {"PYTHONPATH": str(folder), "SERVER": str(TEMPORAL_SERVER)}
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=folder, env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdin is not None and program.stdout is not None
        said = (line for line in program.stdout if line.startswith("> "))  # Temporal logs there, too
        assert next(said) == "> f76f7238\n"
        call = native.pid()
        program.stdin.write("\n")
        program.stdin.flush()
        assert next(said) == "> CancelledError\n"
        assert read_process(call) is None
    assert program.returncode == 0


# ── Airflow ──

DAG_RUN = """
import sys
sys.path.insert(0, "dags")
import keys

print("STATE", keys.keys().test().state)
"""
OPERATOR = """
import signal, sys
sys.path.insert(0, "dags")
from operators import DeriveOperator

operator = DeriveOperator(task_id="derive", rounds=ROUNDS)
signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())  # as the task runner does
try:
    operator.execute({})
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture
def airflow(folder: Path) -> dict[str, str]:
    environment = os.environ | {
        "PYTHONPATH": str(folder), "AIRFLOW_HOME": str(folder / "home"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
    }  # fmt: skip
    subprocess.run([str(AIRFLOW), "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    return environment


@pytest.mark.recipes
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("rounds", "state"), [(1000, "success"), (FOR_EVER, "failed")])
def test_airflows_execution_timeout_ends_the_native_call(
    folder: Path, native: NativeCall, airflow: dict[str, str], rounds: int, state: str
) -> None:
    dag = folder / "dags" / "keys.py"
    dag.write_text(
        dag.read_text()
        .replace("minutes=10", "seconds=5")
        .replace(", retries=2", "")
        .replace("derive(1000)", f"derive({rounds})")
    )
    (folder / "program.py").write_text(DAG_RUN)
    process = subprocess.Popen(
        [str(AIRFLOW), "program.py"], cwd=folder, env=airflow, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = process.communicate(timeout=400)
    assert f"STATE {state}" in out, out[-4000:]
    assert ("AirflowTaskTimeout" in out) == (state == "failed"), out[-4000:]
    if state == "failed":
        assert read_process(native.pid()) is None


@pytest.mark.recipes
def test_airflows_on_kill_ends_the_native_call(folder: Path, native: NativeCall, airflow: dict[str, str]) -> None:
    (folder / "program.py").write_text(OPERATOR.replace("ROUNDS", str(FOR_EVER)))
    with subprocess.Popen(
        [str(AIRFLOW), "program.py"], cwd=folder, env=airflow, text=True, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        call = native.pid()
        program.terminate()
        assert program.stdout is not None
        assert program.stdout.read().splitlines()[-1] == "JobCancelled"
        is_gone(call)
