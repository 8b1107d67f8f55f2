"""What a node does with messages that are lost, late, doubled or of another head, with real workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support import processes

from killable.supervisor import clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.node_host import NodeHost
from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS

JOBS = str(Path(processes.__file__).parent / "simple_jobs.py")
LEASE_S = 1000.0


def run_order(number: int, type: str, attempt: int = 1, job_id: str = "job-1") -> dict[str, Any]:
    return {
        "order": "run", "n": number, "parts": 0, "job_id": job_id, "type": type, "submitted_as": type,
        "attempt": attempt, "limits": dict(DEFAULT_LIMITS), "tags": {}, "correlation_id": "", "age_s": 0.0,
        "waited_s": 0.0, "at_event": 0, "output_bytes": 0, "tokens": 0,
    }  # fmt: skip


class Head:
    """A head that says what a test wants it to say."""

    def __init__(self, host: NodeHost, epoch: int = 1) -> None:
        self.host, self.epoch = host, epoch
        self.ack = self.answer = 0
        self.incarnation = ""

    async def call(self, method: str, blob: bytes = b"", **header: Any) -> tuple[dict[str, Any], list[bytes]]:
        members = {"epoch": self.epoch, "head": f"head {self.epoch}", "incarnation": self.incarnation, **header}
        blobs = [blob] if method == "do" else ()
        return messages.unpack(await self.host.call(method, messages.pack(members, blobs)))

    async def hello(self, given: int = 0, *, adopts: bool = False) -> dict[str, Any]:
        told, _ = await self.call("hello", lease_s=LEASE_S, given=given, before="", adopts=adopts)
        self.answer, self.incarnation = told.get("answer", 0), told.get("incarnation", "")
        return told

    async def run(self, number: int, type: str, attempt: int = 1, job_id: str = "job-1", **input: Any) -> None:
        await self.do(run_order(number, type, attempt, job_id), json.dumps(input).encode())

    async def do(self, order: dict[str, Any], blob: bytes = b"") -> dict[str, Any]:
        told, _ = await self.call("do", blob, orders=[order])
        return told

    async def stop(self, n: int) -> None:
        verdict = {"code": "cancelled", "by": "user", "reason": "", "facts": {}}
        await self.do({"order": "stop", "n": n, "job_id": "job-1", "attempt": 1, "verdict": verdict, "grace_s": 0.0})

    async def poll(
        self, *, acknowledges: bool = True, forget: tuple[int, ...] = (), wait_s: float = 30.0
    ) -> list[tuple[dict[str, Any], bytes]]:
        """Return the items of the next batch; those of the same one again, unless this acknowledges it."""
        answer, batches = await self.call("poll", ack=self.ack, answer=self.answer, wait_s=wait_s, forget=forget)
        return self._items(answer, batches, acknowledges=acknowledges)

    async def poll_until_refused(self) -> dict[str, Any]:
        """Poll without an end: the states of pools are news, too, and may change at any time."""
        while True:
            answer, batches = await self.call("poll", ack=self.ack, answer=self.answer, wait_s=3600.0, forget=())
            if "refused" in answer:
                return answer
            self._items(answer, batches)

    def _items(
        self, answer: dict[str, Any], batches: list[bytes], *, acknowledges: bool = True
    ) -> list[tuple[dict[str, Any], bytes]]:
        self.answer = answer["answer"]
        if not batches:
            return []
        header, blobs = messages.unpack(batches[0])
        if acknowledges:
            self.ack = header["seq"]
        return list(zip(header["items"], blobs, strict=True))

    async def assigned_pid(self) -> int:
        """Return the pid that the first batch tells."""
        notes = [note for item, _ in await self.poll() for note in item.get("notes", ())]
        pid: int = notes[0]["pid"]
        return pid

    async def until_end(self, n: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return what is told of an attempt: its transitions, and its end."""
        notes: list[dict[str, Any]] = []
        while True:
            for item, blob in await self.poll():
                if item["n"] == n and item["kind"] == "notes":
                    notes += item["notes"]
                if item["n"] == n and item["kind"] == "end":
                    return notes, json.loads(blob)


@asynccontextmanager
async def node(now: list[float] | None = None) -> AsyncIterator[Head]:
    pool = PoolSpec(name="tests", modules=(JOBS,), workers=2)
    host = NodeHost(Settings(pools=(pool,), sweep=False), now=clock.boottime if now is None else lambda: now[0])
    await host.start()
    try:
        yield Head(host)
    finally:
        await host.close()


async def test_an_order_to_run_that_comes_twice_runs_once_and_a_batch_is_the_same_until_it_is_received() -> None:
    async with node() as head:
        await head.hello()
        await head.run(1, "count", n=3)
        first = await head.poll(acknowledges=False)
        assert first == await head.poll(), "the same bytes again"
        await head.run(1, "count", n=3)
        told = first
        while not any(item["kind"] == "end" for item, _ in told):
            told = [*told, *await head.poll()]
        events = [event for item, blob in told if item["kind"] == "events" for event in EventLog.decode_some(blob)]
        assert [name for name, _ in events] == ["started", "token", "token", "token"], "its end is an item of its own"
        assert events[0][1] == b"{}", "its head tells of the start in its own words"
        await head.run(1, "count", n=3)
        await head.run(2, "count", n=1)
        _, end = await head.until_end(2)
        assert end["outcome"]["state"] == "completed" and end["certificate"]["tokens"] == 1


async def test_what_was_sent_to_an_earlier_incarnation_is_refused() -> None:
    """It has the number of another attempt: a machine that is forgotten and comes back is counted from 1 again."""
    async with node() as head:
        await head.hello()
        late = Head(head.host)
        late.incarnation = "the last one"
        order = run_order(1, "count")
        assert await late.do(order) == {"refused": "unknown_epoch"}
        assert (await late.call("poll", ack=0, answer=1, wait_s=0.0, forget=()))[0] == {"refused": "unknown_epoch"}
        await head.run(1, "count", n=2)
        _, end = await head.until_end(1)
        assert end["certificate"]["tokens"] == 2


async def test_a_stop_that_comes_before_its_run_ends_it_unrun() -> None:
    async with node() as head:
        await head.hello()
        await head.stop(1)
        await head.run(1, "spin")
        notes, end = await head.until_end(1)
        assert (notes, end["outcome"]["state"], end["outcome"]["code"]) == ([], "cancelled", "cancelled")


async def test_a_second_attempt_on_the_same_node_is_told_whole_although_the_first_is_not_acknowledged() -> None:
    async with node() as head:
        await head.hello()
        await head.run(1, "killed", times=1)
        while not any(item["kind"] == "end" for item, _ in await head.poll()):
            pass
        await head.run(2, "killed", attempt=2, times=1)  # its head has not said that it has received the end
        notes, end = await head.until_end(2)
        causes = [note["cause"] for note in notes]
        causes.remove("exited")  # the end of the process may be seen before what it has written is read
        assert causes == ["assigned", "entered", "closing frame"] and end["outcome"]["state"] == "completed"


async def test_a_second_attempt_outlasts_all_that_ends_meanwhile(tmp_path: Path) -> None:
    """It has the id of the first one, which its node may drop only now."""
    async with node() as head:
        await head.hello()
        await head.run(1, "killed", times=1)
        await head.until_end(1)
        await head.run(2, "killed", attempt=2, times=1, gate=str(tmp_path / "gate"))
        for n in range(3, 6):
            await head.run(n, "count", job_id=f"job-{n}", n=1)
            await head.until_end(n)
        (tmp_path / "gate").touch()
        _, end = await head.until_end(2)
        assert end["outcome"]["state"] == "completed"


async def test_a_newer_head_has_the_node_when_everything_of_the_older_one_is_gone() -> None:
    async with node() as head:
        await head.hello()
        await head.run(1, "spin")
        pid = await head.assigned_pid()
        newer = Head(head.host, epoch=2)
        assert "incarnation" in await newer.hello(given=5)
        assert processes.read_process(pid) is None
        assert (await head.call("poll", ack=0, answer=1, wait_s=0.0, forget=()))[0] == {
            "refused": "stale_epoch",
            "epoch": 2,
        }
        assert (await Head(head.host, epoch=1).hello())["refused"] == "stale_epoch"
        await newer.run(5, "count", n=1)
        await newer.run(6, "count", n=2)
        _, end = await newer.until_end(6)
        assert end["certificate"]["tokens"] == 2, "what was given out before its hello is late"
        assert (await Head(head.host, epoch=9).call("poll", ack=0, answer=1, wait_s=0.0, forget=()))[0][
            "refused"
        ] == "unknown_epoch"


async def test_a_poll_that_waits_is_answered_as_soon_as_a_newer_head_has_the_node() -> None:
    async with node() as head:
        await head.hello()
        waits = asyncio.ensure_future(head.poll_until_refused())
        for _ in range(50):  # turns of the loop, until it waits for news
            await asyncio.sleep(0)
        newer = Head(head.host, epoch=2)
        await newer.hello()
        assert await waits == {"refused": "stale_epoch", "epoch": 2}
        await newer.run(1, "count", n=1)
        _, end = await newer.until_end(1)
        assert end["outcome"]["state"] == "completed"


def events_of(items: list[tuple[dict[str, Any], bytes]], n: int) -> list[str]:
    told = [(item["at"], blob) for item, blob in items if item["n"] == n and item["kind"] == "events"]
    assert not told or told[0][0] == 0, "from the first one on"
    return [name for _, blob in told for name, _ in EventLog.decode_some(blob)]


async def test_a_head_that_comes_back_goes_on_with_what_it_knows_and_the_rest_is_ended(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with node() as head:
        await head.hello()
        await head.run(1, "gated", gates=[str(gate)])
        await head.run(2, "spin", job_id="job-2")
        told: list[tuple[dict[str, Any], bytes]] = []
        while "token" not in events_of(told, 1) or "started" not in events_of(told, 2):
            told += await head.poll()
        pids = {
            item["n"]: item["notes"][0]["pid"] for item, _ in told if "notes" in item and item["notes"][0].get("pid")
        }
        back = Head(head.host, epoch=2)
        hello = await back.hello(adopts=True)
        assert hello["begun"] == 2
        held = {
            each["n"]: (each["job_id"], each["attempt"], each["at_event"], each["events"]) for each in hello["held"]
        }
        assert held == {1: ("job-1", 1, 0, 2), 2: ("job-2", 1, 0, 1)}
        assert all(each["started_s"] >= 0 for each in hello["held"])
        stale, batches = await head.call("poll", ack=head.ack, answer=head.answer, wait_s=0.0, forget=())
        assert (stale["refused"], batches) == ("stale_epoch", []), "the earlier head gets nothing any more"
        await head.stop(1)
        assert await back.poll(wait_s=0.0) == [], "nothing is told that its head does not know"
        assert {processes.read_process(pid) is None for pid in pids.values()} == {False}
        await back.call("adopt", ns=[1])
        assert processes.read_process(pids[2]) is None
        await back.call("adopt", ns=[])  # late, and doubled
        gate.touch()
        told = []
        while not any(item["kind"] == "end" for item, _ in told):
            told += await back.poll()
        assert events_of(told, 1) == ["started", "token", "token"], "each again, once"
        assert {item["n"] for item, _ in told} == {1}
        await back.run(2, "count", n=1)
        await back.run(3, "count", job_id="job-3", n=1)
        _, end = await back.until_end(3)
        assert end["certificate"]["tokens"] == 1


async def test_an_end_is_told_again_until_its_head_has_written_it_down() -> None:
    async with node() as head:
        await head.hello()
        await head.run(1, "count", n=2)
        await head.until_end(1)
        await head.poll(wait_s=0.0)  # received, and nothing more is known of it
        back = Head(head.host, epoch=2)
        assert [each["n"] for each in (await back.hello(adopts=True))["held"]] == [1]
        await back.call("adopt", ns=[1])
        _, end = await back.until_end(1)
        assert end["outcome"]["state"] == "completed"
        await back.poll(forget=(1,), wait_s=0.0)
        third = Head(head.host, epoch=3)
        assert (await third.hello(adopts=True))["held"] == []


async def test_a_node_whose_lease_is_over_ends_everything_and_delivers_nothing() -> None:
    began = clock.boottime()  # its guards have the lease, too, and a clock of their own
    now = [began]
    async with node(now) as head:
        await head.hello()
        await head.run(1, "spin")
        pid = await head.assigned_pid()
        now[0] = began + LEASE_S - 1
        await head.poll()
        await head.call("poll", ack=head.ack, answer=head.answer, wait_s=0.0, forget=())  # it has received that answer
        now[0] = began + LEASE_S + 1
        assert "answer" in (await head.call("poll", ack=head.ack, answer=head.answer, wait_s=0.0, forget=()))[0], (
            "it was renewed"
        )
        now[0] = began + 3 * LEASE_S
        assert (await head.call("poll", ack=head.ack, answer=head.answer, wait_s=0.0, forget=()))[0][
            "refused"
        ] == "lease_over"
        await head.host.close()
        assert processes.read_process(pid) is None
        assert (await head.hello())["refused"] == "lease_over", "it never works again"


async def test_a_run_that_cannot_begin_ends_and_is_told() -> None:
    """A part of its input has not come. No order for it comes again."""
    async with node() as head:
        await head.hello()
        assert await head.do(run_order(1, "sleep") | {"parts": 1}, b"{}") == {}
        _, end = await head.until_end(1)
        assert (end["outcome"]["state"], end["outcome"]["code"]) == ("failed", "spawn")
        assert "its node could not begin it" in end["outcome"]["message"]
