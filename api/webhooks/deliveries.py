"""The webhooks of one server: which are due, which wait, what became of each.

Runs in: the event loop of the server. What may take time (look-ups, TLS, the other side) is done in a thread.

    a job has ended, and its end is on disk ──► waiting ──► due ──► POST in the thread ──► taken
                                                  ▲                        │
                                                  └── backoff with jitter ─┴──► given up

Nothing of a webhook is kept but its job's id: each attempt sends the record that the server keeps anyway. So the bounds
of kept jobs are those of webhooks, too; a job that is no longer kept is not told of.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import time
from typing import Any, Protocol
from urllib.parse import urlsplit

from killable.api.http.record_json import record_json
from killable.api.webhooks.callback_address import Network, fault_of
from killable.api.webhooks.http_post import Posted, post
from killable.api.webhooks.secrets_file import EVERYONE, Sender, Senders
from killable.api.webhooks.signature import signed_headers
from killable.supervisor.http_server_settings import WebhookSettings
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused

AT_ONCE_MAX = 16
"""Webhooks under way at once."""
AT_ONCE_OF_TENANT_MAX = 4
"""Of one tenant: receivers that do not answer hold up nobody else's."""
WAIT_S_MAX = 3600.0
"""The longest wait before an attempt, also if the receiver asks for more."""
RETRY_AFTER_S_MAX = WAIT_S_MAX
WANTS_NO_MORE = frozenset({410})
"""Statuses of a receiver that is not tried again: Gone (RFC 9110, 15.5.11)."""

logger = logging.getLogger("killable.webhooks")


class CallbackEngine(Protocol):
    """What webhooks need of a supervisor."""

    async def get(self, job_id: str, *, tenant: str | None = None, at_once: bool = False) -> JobRecord: ...

    def note_callback(self, job_id: str, state: str, attempts: int, detail: str) -> None:
        """Keep what became of a job's webhook in its record, and in the journal."""
        ...


TOO_MANY = "too many webhooks wait (webhooks.waiting_max)"


class _Delivery:
    """The webhook of one job."""

    __slots__ = ("attempts", "job_id", "tenant", "timer", "url")

    def __init__(self, job_id: str, tenant: str, url: str, attempts: int) -> None:
        self.job_id, self.tenant, self.url = job_id, tenant, url
        self.attempts = attempts
        self.timer: asyncio.TimerHandle | None = None

    @property
    def host(self) -> str:
        """Where it goes, for the log. The rest of an address may have a secret in it."""
        return urlsplit(self.url).hostname or ""


class Deliveries:
    """Implements `Callbacks` of the supervisor."""

    def __init__(
        self, engine: CallbackEngine, settings: WebhookSettings, allowed: Sequence[Network], senders: Senders,
        result_inline_bytes_max: int,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._settings = settings
        self._allowed = allowed
        self._senders = senders
        self._result_inline_bytes_max = result_inline_bytes_max
        self._pending: dict[str, _Delivery] = {}
        """All that are neither taken nor given up, by job."""
        self._of_tenant: Counter[str] = Counter()
        """How many of them each tenant has."""
        self._due: deque[_Delivery] = deque()
        self._under_way: Counter[str] = Counter()
        """By tenant."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: PostingThread | None = None
        self._is_closing = False
        self.counts: Counter[str] = Counter(dict.fromkeys(("delivered", "failed", "given_up", "refused"), 0))

    # ── of submissions ──

    def fault_of(self, url: str, tenant: str) -> str:
        """Return why jobs of this tenant cannot have this address; empty if they can."""
        if self._sender_of(tenant) is None:
            return f"needs a secret of tenant {tenant} in webhooks.secrets_file, and there is none"
        return fault_of(url, self._allowed)

    def url_of(self, tenant: str) -> str:
        """Return where jobs of this tenant go that name no address; empty: nowhere."""
        sender = self._sender_of(tenant)
        return "" if sender is None else sender.url

    def replace(self, senders: Senders) -> None:
        """Sign by these secrets from now on, also what waits."""
        self._senders = senders

    def _sender_of(self, tenant: str) -> Sender | None:
        return self._senders.get(tenant) or self._senders.get(EVERYONE)

    # ── of ends ──

    @property
    def waiting(self) -> int:
        """Return how many are neither taken nor given up."""
        return len(self._pending)

    def on_ended(self, job_id: str, tenant: str, url: str, attempts: int) -> None:
        """Take note that a job has ended which has an address, and for which an earlier server has made so many
        attempts. Returns at once.
        """
        delivery = _Delivery(job_id, tenant, url, attempts)
        if not self._has_room(tenant):
            self.counts["refused"] += 1
            self._give_up(delivery, TOO_MANY)
            return
        self._pending[job_id] = delivery
        self._of_tenant[tenant] += 1
        if attempts:  # a server that restarts often would use up all of them within minutes
            wait_s = self._wait_s(attempts, None)
            delivery.timer = asyncio.get_running_loop().call_later(wait_s, self._put, delivery)
        else:
            self._put(delivery)

    def _has_room(self, tenant: str) -> bool:
        """Return whether one more may wait. A tenant that has fewer than another one gets a place of that one's: what
        has waited longest for its next attempt is given up.
        """
        most, own = self._settings.waiting_max, self._of_tenant[tenant]
        if own >= max(1, most // 2):
            return False
        if len(self._pending) < most:
            return True
        richest, number = self._of_tenant.most_common(1)[0]
        waiting = (each for each in self._pending.values() if each.tenant == richest and each.timer is not None)
        victim = next(waiting, None) if number > own + 1 else None
        if victim is None or victim.timer is None:
            return False
        victim.timer.cancel()
        self._drop(victim, TOO_MANY)
        return True

    def _put(self, delivery: _Delivery) -> None:
        delivery.timer = None
        self._due.append(delivery)
        self._begin_due()

    def _begin_due(self) -> None:
        """Begin those that are due, in their order, as far as their tenants have room."""
        put_back: list[_Delivery] = []
        while self._due and self._under_way.total() < AT_ONCE_MAX:
            delivery = self._due.popleft()
            if self._under_way[delivery.tenant] >= AT_ONCE_OF_TENANT_MAX:
                put_back.append(delivery)
                continue
            self._under_way[delivery.tenant] += 1
            task = asyncio.create_task(self._attempt(delivery))
            self._tasks.add(task)
            task.add_done_callback(partial(self._on_attempt_done, delivery))
        self._due.extendleft(reversed(put_back))

    def _on_attempt_done(self, delivery: _Delivery, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._under_way[delivery.tenant] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._drop(delivery, f"a bug in killable: {error!r}")
        if not self._is_closing:
            self._begin_due()

    async def _attempt(self, delivery: _Delivery) -> None:
        sender = self._sender_of(delivery.tenant)
        if sender is None:
            self._drop(delivery, "its tenant has no secret any more")
            return
        try:
            record = await self._engine.get(delivery.job_id, at_once=True)
        except Refused:
            self._drop(delivery, "its job is no longer kept")
            return
        delivery.attempts = 1 + (record.callback or {}).get("attempts", 0)  # those of the server before count, too
        body = json.dumps(self._body_of(record), separators=(",", ":")).encode()
        message_id = f"msg_{delivery.job_id}"  # the same for each attempt: receivers tell repetitions by it
        headers = {
            **signed_headers(message_id, int(time()), body, sender.secrets),
            "Content-Type": "application/json",
            "User-Agent": "killable",
        }
        self._on_posted(delivery, await self._post(delivery.url, headers, body))

    def _body_of(self, record: JobRecord) -> dict[str, Any]:
        """Return the event: what has happened, when, and the record of the job as `GET /v1/jobs/ID` has it."""
        data = record_json(record, self._result_inline_bytes_max)
        return {"type": f"job.{record.state}", "timestamp": record.ended_at, "data": data}

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Posted:
        if self._thread is None:
            self._thread = PostingThread()
        send = partial(post, url, headers, body, allowed=self._allowed, timeout_s=self._settings.timeout_s)
        try:
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._thread.call(send), self._thread.loop)
            )
        except (RuntimeError, OSError) as error:  # no thread, no certificates, no descriptor
            return Posted(False, str(error))

    def _on_posted(self, delivery: _Delivery, posted: Posted) -> None:
        if posted.is_taken:
            self.counts["delivered"] += 1
            self._forget(delivery)
            fields = {"job_id": delivery.job_id, "attempts": delivery.attempts, "host": delivery.host}
            logger.info("webhook_delivered", extra=fields)
            self._engine.note_callback(delivery.job_id, "delivered", delivery.attempts, posted.detail)
            return
        self.counts["failed"] += 1
        if posted.status in WANTS_NO_MORE or delivery.attempts >= self._settings.attempts_max:
            self._drop(delivery, posted.detail)
            return
        wait_s = self._wait_s(delivery.attempts, posted.again_s)
        fields = {
            "job_id": delivery.job_id, "tenant": delivery.tenant, "host": delivery.host, "detail": posted.detail,
            "attempts": delivery.attempts, "wait_s": round(wait_s, 3),
        }  # fmt: skip
        logger.warning("webhook_failed", extra=fields)
        self._engine.note_callback(delivery.job_id, "pending", delivery.attempts, posted.detail)
        delivery.timer = asyncio.get_running_loop().call_later(wait_s, self._put, delivery)

    def _wait_s(self, attempts: int, again_s: float | None) -> float:
        """Return the wait before the next attempt: doubled each time, between half of that and all of it at random."""
        doubled = min(WAIT_S_MAX, self._settings.backoff_s * 2.0 ** min(attempts - 1, 60))
        wait_s = doubled * (1 + random.random()) / 2
        return wait_s if again_s is None else max(wait_s, min(again_s, RETRY_AFTER_S_MAX))

    def _drop(self, delivery: _Delivery, why: str) -> None:
        self._forget(delivery)
        self._give_up(delivery, why)

    def _give_up(self, delivery: _Delivery, why: str) -> None:
        self.counts["given_up"] += 1
        fields = {
            "job_id": delivery.job_id, "tenant": delivery.tenant, "host": delivery.host, "detail": why,
            "attempts": delivery.attempts,
        }  # fmt: skip
        logger.error("webhook_given_up", extra=fields)
        self._engine.note_callback(delivery.job_id, "failed", delivery.attempts, why)

    def _forget(self, delivery: _Delivery) -> None:
        if self._pending.pop(delivery.job_id, None) is not None:
            self._of_tenant[delivery.tenant] -= 1

    # ── the end ──

    async def close(self, wait_s: float) -> None:
        """Give those that are due `wait_s` seconds. With a journal, the next server sends the rest."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while (self._tasks or self._due) and loop.time() < until:
            self._begin_due()
            await asyncio.wait(self._tasks, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED)
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        for delivery in self._pending.values():
            if delivery.timer is not None:
                delivery.timer.cancel()
        if self._pending:
            logger.warning("webhooks_left", extra={"number": len(self._pending)})
        if self._thread is not None:
            self._thread.close()


class PostingThread:
    """A thread with an event loop, in which webhooks are sent. It ends with the process, whatever it waits for."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._context: ssl.SSLContext | None = None
        threading.Thread(target=self._run, name="killable-webhooks", daemon=True).start()

    def _run(self) -> None:
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    async def call(self, send: Callable[..., Any]) -> Posted:
        """Run `post` in the thread. Raise OSError without certificates."""
        if self._context is None:
            self._context = ssl.create_default_context()  # 20 ms: the certificates of the system, or SSL_CERT_FILE
        posted: Posted = await send(context=self._context)
        return posted

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
