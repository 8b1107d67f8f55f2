"""What the head asks of one node, and whether it understands the answer.

Runs in: supervisor, on the head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from killable.supervisor.cluster import message_checks, messages
from killable.supervisor.cluster.carrier import Carrier, CarrierError
from killable.supervisor.cluster.messages import Header
from killable.workers.errors import Refused

Batches = list[tuple[Header, list[bytes]]]


class NodeCalls:
    def __init__(self, name: str, carrier: Carrier, about: Callable[[], Header], patience_s: float) -> None:
        """`about` returns what each call begins with: the head's epoch, and the incarnation that it is for.
        `patience_s`: how long an answer is waited for that nothing else bounds.
        """
        self.name = name
        self._carrier = carrier
        self._about = about
        self._patience_s = patience_s

    async def call(
        self, method: str, header: Header, within_s: float, blobs: Sequence[bytes] = ()
    ) -> tuple[Header, list[bytes]]:
        """Return the answer of the node. Raise TimeoutError, CarrierError."""
        message = messages.pack(self._about() | header, blobs)
        async with asyncio.timeout(within_s):
            packed = await self._carrier.call(self.name, method, message)
        answer: Header = {}
        try:
            answer, data = messages.unpack(packed)
            message_checks.check_answer(method, answer)
        except ValueError as error:
            raise CarrierError(_not_understood(answer, error)) from error
        return answer, data

    async def poll(self, poll: Header, within_s: float) -> tuple[Header, Batches]:
        """Return the answer to a poll, and its batches. Raise TimeoutError, CarrierError."""
        answer, packed = await self.call("poll", poll, within_s)
        try:
            batches = [messages.unpack(batch) for batch in packed]
            for header, blobs in batches:
                message_checks.check_batch(header, blobs)
        except ValueError as error:
            raise CarrierError(_not_understood({}, error)) from error
        return answer, batches

    async def workers(self, within_s: float | None = None, *, uses: bool = False) -> Header:
        """Return the node's own records of its workers, and of those that were not reused. It is empty if the node does
        not answer in time (None: as long as for any call). `uses`: with what each uses now, and not over its life.
        """
        try:
            answer, _ = await self.call("workers", {"uses": uses}, self._patience_s if within_s is None else within_s)
        except (TimeoutError, CarrierError):
            return {}
        return {} if "refused" in answer else answer

    async def kill_worker(self, worker_id: str, wait_s: float) -> dict[str, Any]:
        """Have one of the node's workers killed; return its own record. Raise Refused: unknown_worker."""
        asked = {"worker_id": worker_id, "wait_s": wait_s}
        try:
            answer, _ = await self.call("kill_worker", asked, wait_s + self._patience_s)
        except (TimeoutError, CarrierError) as error:
            answer = {"unknown": f"the node does not answer: {error}"}
        if "worker" not in answer:
            why = answer.get("unknown") or f"the node refuses: {answer['refused']}"
            worker_id = f"{self.name}.{worker_id}"
            raise Refused(f"no worker {worker_id}: {why}", code="unknown_worker", worker_id=worker_id)
        found: dict[str, Any] = answer["worker"]
        return found


def _not_understood(answer: Header, error: ValueError) -> str:
    """Return what is wrong with an answer; of another release that is all that matters."""
    release = answer.get("version")
    if isinstance(release, str) and release != messages.installed_version():
        ours = messages.installed_version()
        return f"it has killable {release[:64]}, and this server {ours}: install the same on each machine"
    return f"what it answers is not understood: {error}"
