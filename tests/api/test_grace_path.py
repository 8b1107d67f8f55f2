"""Which files have `grace_s` in their hands, from the body of a request to SIGTERM and SIGKILL: few, and these."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from api_server import serve

import killable.supervisor
from killable.supervisor.supervisor import Supervisor

ROOT = Path(killable.supervisor.__file__).parents[1]
GRACE_S = 0.23454321
"""A number that nothing else is."""
FILES_MAX = 10
NAMED_TUPLES = "workers/named_tuples.py"  # makes the tuples that others look into

EVERY_WAY = {
    "supervisor/attempts/attempt.py",  # the shorter one counts: the job's, or that of whoever cancels it
    "supervisor/attempts/termination.py",  # carries out the plan: signals now, a timer for the end of the grace
    "supervisor/attempts/escalation.py",  # the plan: SIGTERM, then SIGKILL
    "supervisor/telemetry/job_log.py",
    "workers/protocol/messages.py",  # the job is told, in the order STOP
}
OF_A_SUBMISSION = EVERY_WAY | {
    "workers/authoring/limits_and_caps.py",  # each limit by its name
    "supervisor/jobs/effective_limits.py",  # within its cap, and before that of the type
    "supervisor/dispatch/dispatcher.py",  # the rules of an attempt
}
OF_A_CANCEL = EVERY_WAY | {
    "api/http/routes_operator.py",
    "supervisor/supervisor.py",
    "supervisor/dispatch/dispatcher.py",
    "supervisor/jobs/job.py",  # whether it is shorter than that of a cancel before
    "supervisor/telemetry/observer.py",  # to the log
}
"""Others pass on what it is in, a body, a submission, the limits of a job, and do not look at it."""


@contextmanager
def files_with(number: float) -> Iterator[set[str]]:
    """Collect the files of killable in which a variable is this number, or has it as `grace_s`, until SIGKILL."""
    found: set[str] = set()
    names: dict[CodeType, str] = {}

    def look(frame: FrameType, event: str, result: Any) -> Any:
        code = frame.f_code
        if code not in names:
            path = Path(code.co_filename)
            names[code] = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        if names[code] in ("", NAMED_TUPLES):
            return None
        if names[code] == "supervisor/linux/worker_process.py" and code.co_name == "kill":
            sys.settrace(None)
            return None
        if names[code] not in found and any(_has(each, number) for each in (result, *frame.f_locals.values())):
            found.add(names[code])
        return look

    sys.settrace(look)
    try:
        yield found
    finally:
        assert sys.gettrace() is None, "a kill was seen"
        sys.settrace(None)


def _has(value: Any, number: float) -> bool:
    """Return whether a value is the number, or a request or a tuple with it as `grace_s`."""
    if type(value) is float:
        return value == number
    fields = getattr(type(value), "model_fields", ()) or getattr(value, "_fields", ())
    return "grace_s" in fields and value.grace_s == number


async def test_a_grace_passes_few_files_from_the_submission_to_the_signals() -> None:
    async with serve(engine=Supervisor, workers=1) as server:
        with files_with(GRACE_S) as found:
            limits = {"grace_s": GRACE_S, "ack_s": None}
            job_id = await server.submit("slow_clean", gate="/never", members={"limits": limits})
            await server.read(job_id, until="token")
            assert (await server.client.delete(f"/v1/jobs/{job_id}")).status_code == 200
    assert found == OF_A_SUBMISSION and len(found) <= FILES_MAX


async def test_the_grace_of_a_cancel_passes_few_files_to_the_signals() -> None:
    async with serve(engine=Supervisor, workers=1) as server:
        job_id = await server.submit("slow_clean", gate="/never", members={"limits": {"ack_s": None}})
        await server.read(job_id, until="token")
        with files_with(GRACE_S) as found:
            asked = {"type": "slow_clean", "grace_s": GRACE_S}
            assert (await server.client.post("/v1/jobs/cancel", json=asked)).status_code == 200
    assert found == OF_A_CANCEL and len(found) <= FILES_MAX
