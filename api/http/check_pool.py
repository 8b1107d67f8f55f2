"""The processes that read and check what clients send, where it could hold up the event loop.

Runs in: api. A pool of our own: a check that takes too long is killed, and the next one does not wait for that.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from killable.api.http.app_settings import HttpSettings
from killable.supervisor.models import Submission
from killable.supervisor.records import JobRecord
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.telemetry.observer import Unobserved
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, NO_CAPS, over
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

JOBS = "killable.api.http.check_pool_jobs"
SPLIT, CHECK = "split", "check"
"""The functions of that module."""
WORKERS = 2
"""Checks at the same time: one of each of two clients."""
WAITING_MAX = 16
"""Checks of one tenant that wait or run; one more is refused."""
QUEUE_S = 10.0
"""The longest that a check waits for a process."""
MEMORY_BYTES = 512 << 20
"""What a check may use: some 30 times the size of the worst body of 16 MiB."""


class CheckPool:
    """Starts its processes at the first check. Each tenant has one check at a time, and some that wait."""

    def __init__(self, settings: HttpSettings, modules: Sequence[str] = ()) -> None:
        """`modules`: of more functions that `run` is to find."""
        self._run_s = settings.input_check_s
        self._modules = modules
        self._starting: asyncio.Task[Supervisor] | None = None
        self._turns: WeakValueDictionary[str, _Turns] = WeakValueDictionary()

    async def split(self, body: bytes, members: Sequence[str] | None, tenant: str) -> tuple[dict[str, Any], bytes]:
        """Return what `check_pool_jobs.split` does. Raise Refused: input.invalid, busy."""
        named = dump_json(None if members is None else list(members))
        content = b'{"members":%s,"body":{"base64":"%s"}}' % (named, base64.b64encode(body))
        result = await self.run(SPLIT, content, tenant)
        head, _, input = base64.b64decode(result.removeprefix(b'{"base64":"').removesuffix(b'"}')).partition(b"\n")
        return json.loads(head), input

    async def check(
        self, schema: dict[str, Any], payload: bytes, prefix: tuple[str, ...], tenant: str
    ) -> list[dict[str, str]]:
        """Return the faults of an input, which is JSON. Raise Refused: input.invalid, busy."""
        content = b'{"schema":%s,"prefix":%s,"value":%s}' % (dump_json(schema), dump_json(list(prefix)), payload)
        faults: list[dict[str, str]] = json.loads(await self.run(CHECK, content, tenant))
        return faults

    async def close(self) -> None:
        """Kill what runs, and return when no process is left."""
        if self._starting is not None:
            with contextlib.suppress(OSError):  # it did not start
                await (await self._starting).close(0.0)

    async def run(self, type: str, content: bytes, tenant: str) -> bytes:
        """Return what one of the functions returns, as JSON. `content`: its arguments, as JSON. Raise Refused:
        input.invalid, busy.
        """
        supervisor = await self._supervisor()
        turns = self._turns.setdefault(tenant, _Turns())
        async with turns:
            try:
                record = await supervisor.submit(Submission(type, content, {"run_s": self._run_s}))
            except Refused as refused:  # the pool is broken
                raise _busy(refused.message) from refused
            try:
                record = await supervisor.wait(record.job_id)
            except asyncio.CancelledError:
                await asyncio.shield(supervisor.cancel(record.job_id, grace_s=0.0, wait_s=0.0))
                raise
        return self._answer(record)

    async def _supervisor(self) -> Supervisor:
        """Return the pool's supervisor; start it if there is none. Raise Refused: busy, if it cannot be started now."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(_started(self._modules))
        starting = self._starting
        try:
            return await asyncio.shield(starting)
        except OSError as error:
            if self._starting is starting:
                self._starting = None  # the next check tries again
            raise _busy(str(error)) from error

    def _answer(self, record: JobRecord) -> bytes:
        if record.result is not None:
            return record.result
        error = record.error or {}
        match error.get("code"):
            case "timeout.run":
                why = f"its check took longer than input_check_s of {self._run_s:g} s"
            case "limit.memory":
                why = f"its check took more than {MEMORY_BYTES >> 20} MiB of memory"
            case code:
                raise _busy(str(code))
        raise Refused(f"the input cannot be checked: {why}", code="input.invalid", check=error["code"])


def _busy(why: str) -> Refused:
    return Refused(f"the request cannot be checked now: {why}", code="busy")


class _Turns:
    """The checks of one tenant: one runs, some wait, more are refused."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._count = 0

    async def __aenter__(self) -> None:
        if self._count >= WAITING_MAX:
            raise Refused(f"{WAITING_MAX} requests of this client are being checked already", code="busy")
        self._count += 1
        try:
            await self._one.acquire()
        except BaseException:
            self._count -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._count -= 1
        self._one.release()


async def _started(modules: Sequence[str]) -> Supervisor:
    pool = PoolSpec(
        name="checks",
        modules=(JOBS, *modules),
        workers=WORKERS,
        spares=1,
        jobs_per_worker_max=0,
    )
    limits = over(DEFAULT_LIMITS, {"grace_s": 0.0, "queue_s": QUEUE_S, "memory_bytes": MEMORY_BYTES})
    settings = Settings(pools=(pool,), limits=limits, caps=NO_CAPS, keep_jobs=WAITING_MAX, sweep=False)
    supervisor = Supervisor(settings, observer=Unobserved())
    await supervisor.start()
    return supervisor
