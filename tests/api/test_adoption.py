"""A head that is killed and comes back: what runs on its nodes goes on, what it does not find has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from api_server import Server, client_of
from support import head_program
from support.forked_command import ForkedProcess
from support.processes import read_process
from support.waiting import Pending, until_async

TESTS = Path(head_program.__file__).parent.parent
Start = Callable[..., Any]


class HeadProcess(Server):
    """A head in a process of its own, which is forked: there is nothing to import."""

    process: ForkedProcess
    nodes: dict[str, int]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def heads(folder: Path, lease_s: float) -> AsyncIterator[Start]:
    """Give a function that starts a head; the last one is closed in order, and with it the nodes."""
    async with AsyncExitStack() as stack:

        async def start(**environment: str) -> HeadProcess:
            environment["PYTHONPATH"] = os.pathsep.join((str(TESTS), str(TESTS / "api")))
            process = ForkedProcess(
                [str(folder), str(lease_s), "a", "b"], folder, os.environ | environment, stdin=subprocess.PIPE,
                stderr=2, script=head_program.__file__,
            )  # fmt: skip
            stack.callback(close, process)
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            head = HeadProcess(await stack.enter_async_context(client_of(told["url"])))
            head.process, head.nodes = process, told["nodes"]
            return head

        yield start


def close(process: ForkedProcess) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if (seen := read_process(pid)) is not None and seen.state != "Z"]


async def until_gone(pids: list[int]) -> None:
    await until_async(lambda: gone(pids), "its processes are gone")


async def gone(pids: list[int]) -> bool | Pending:
    return Pending(left) if (left := alive(pids)) else True


async def joined(head: Server) -> dict[str, dict[str, Any]]:
    """Return the nodes by name when all have joined: a head has started when one has."""

    async def found() -> dict[str, dict[str, Any]] | Pending:
        nodes = {each["name"]: each for each in (await head.client.get("/v1/nodes")).json()["nodes"]}
        return Pending(nodes) if any(each["state"] == "joining" for each in nodes.values()) else nodes

    return await until_async(found, "all nodes have joined")


async def runs(head: Server, job_id: str) -> bool | Pending:
    record = await head.record(job_id)
    return record["started_at"] is not None or Pending(record)


async def test_a_head_that_was_killed_takes_over_what_runs_and_its_streams_have_no_gap(tmp_path: Path) -> None:
    async with heads(tmp_path, lease_s=300) as start:
        head: HeadProcess = await start()
        gates = [[str(tmp_path / f"{number}-{gate}") for gate in range(3)] for number in range(3)]
        jobs = [await head.submit("gated", gates=each) for each in gates]
        family = await head.submit("keeps_family")
        twice = {"limits": {"attempts_max": 2, "backoff_s": 0}}
        again = await head.submit("killed", times=1, gate=gates[0][2], members=twice)
        for each in gates:
            Path(each[0]).touch()
        before = []
        for job_id in jobs:
            before.append(await head.read(job_id, until="token"))
        retried = await head.read(again, until="retrying")
        await until_async(lambda: runs(head, again), "its second attempt runs")
        pinned = {"nodes": {"node": "b"}}
        waits = await head.submit("echo", text="it waited", members=pinned)  # now no slot is free
        told = json.loads((await head.read(family, until="token")).events[-1].data)["value"]
        records = [await head.record(job_id) for job_id in (*jobs, family, again)]
        pids = [*told, *(record["pid"] for record in records)]
        assert (await head.record(waits))["state"] == "queued" and len(alive(pids)) == len(pids)
        head.kill()
        for gate in gates[0][:2] + gates[2]:
            Path(gate).touch()
        await until_gone([records[2]["pid"]])  # it has ended while there was no head

        head = await start()
        assert head.nodes == {}, "it has started no node"
        third = await head.record(jobs[2], wait_s=60)
        assert (third["state"], third["attempts"], third["pid"]) == ("completed", 1, records[2]["pid"])
        for gate in gates[0] + gates[1]:
            Path(gate).touch()
        for job_id, seen, each, record in zip(jobs, before, gates, records[:3], strict=True):
            rest = await head.read(job_id, headers={"Last-Event-ID": str(seen.ids[-1])})
            assert seen.ids + rest.ids == list(range(len(each) + 3))
            assert seen.tokens + rest.tokens == ["first", *map(os.path.basename, each)]
            whole = await head.read(job_id)
            assert whole.tokens == seen.tokens + rest.tokens and whole.ids == seen.ids + rest.ids
            after = await head.record(job_id)
            same = ("attempts", "pid", "worker_id", "node", "created_at")
            assert [after[name] for name in same] == [record[name] for name in same]
            assert after["state"] == "completed" and rest.end["certificate"]["node"] == record["node"]
        waited = await head.record(waits, wait_s=60)
        assert (waited["result"]["text"], waited["node"], waited["nodes"]) == ("it waited", "b", {"node": "b"})
        second = await head.read(again, headers={"Last-Event-ID": str(retried.ids[-1])})
        assert retried.names + second.names == ["started", "progress", "retrying", "started", "progress", "completed"]
        assert retried.ids + second.ids == list(range(6)) and second.end["result"] == [2, 0]
        assert (await head.record(again))["pid"] == records[-1]["pid"]
        assert len(alive(told)) == len(told)
        assert (await head.client.delete(f"/v1/jobs/{family}")).json()["status"] == "cancelled"
        assert alive(told) == []
        certificate = (await head.record(family))["certificate"]
        assert certificate["tree_empty"] and certificate["relayed"]


async def test_what_a_head_finds_nowhere_has_ended_with_its_nodes_lease(tmp_path: Path) -> None:
    async with heads(tmp_path, lease_s=5) as start:
        head: HeadProcess = await start()
        lost = [await head.submit("napper", seconds=1e6) for _ in range(2)]
        rerun = [await head.submit("repeatable", gate=str(tmp_path / "gate")) for _ in range(2)]
        for job_id in lost:
            await head.read(job_id, until="started")
        for job_id in rerun:
            await head.read(job_id, until="token")
        records = [await head.record(job_id) for job_id in (*lost, *rerun)]
        assert {record["node"] for record in records} == {"a", "b"}
        head.kill()
        os.kill(head.nodes["a"], signal.SIGKILL)
        await until_gone([record["pid"] for record in records])  # those of b have ended with its lease

        head = await start()
        (tmp_path / "gate").touch()
        for job_id, before in zip(lost, records, strict=False):
            record = await head.record(job_id, wait_s=60)
            error = record["error"]
            assert (record["state"], error["code"], error["node"]) == ("failed", "node_lost", before["node"])
            assert error["fenced"] == "lease" and "orphans" not in error["message"] and record["node"] == before["node"]
            assert (await head.read(job_id, headers={"Last-Event-ID": "0"})).names == ["failed"]
        for job_id in rerun:
            record = await head.record(job_id, wait_s=60)
            assert (record["state"], record["result"], record["lost_attempts"]) == ("completed", 2, 1)


async def test_a_head_with_other_settings_starts_its_nodes_anew_and_tells_what_that_has_ended(tmp_path: Path) -> None:
    async with heads(tmp_path, lease_s=300) as start:
        head: HeadProcess = await start()
        family = await head.submit("keeps_family")
        told = json.loads((await head.read(family, until="token")).events[-1].data)["value"]
        head.kill()
        assert len(alive(told)) == len(told)

        head = await start(WORKERS="1")
        assert alive(told) == [] and sorted(head.nodes) == ["a", "b"]
        error = (await head.record(family, wait_s=60))["error"]
        assert (error["code"], error["fenced"]) == ("node_lost", "told") and "settings" in error["message"]
        nodes = (await head.client.get("/v1/nodes")).json()["nodes"]
        assert {node["name"]: (node["state"], node["slots"]) for node in nodes} == {"a": ("live", 3), "b": ("live", 3)}


async def test_a_drain_is_remembered_when_the_head_was_killed_and_when_it_has_ended(tmp_path: Path) -> None:
    async with heads(tmp_path, lease_s=300) as start:
        head: HeadProcess = await start()
        pinned = {"nodes": {"node": "a"}, "limits": {"attempts_max": 2, "backoff_s": 0}}
        nap = await head.submit("napper", seconds=1e6, members=pinned)
        await head.read(nap, until="started")
        await head.client.post("/v1/nodes/a/drain?deadline_s=3600")
        await head.client.post("/v1/nodes/b/drain")
        await head.client.delete("/v1/nodes/b/drain")
        waits = await head.submit("echo", members={"nodes": {"node": "a"}})
        head.kill()

        head = await start()
        found = await joined(head)
        assert {name: each["state"] for name, each in found.items()} == {"a": "draining", "b": "live"}
        assert 3000 < found["a"]["deadline_s"] <= 3600 and found["a"]["detail"] == "an operator has drained it"
        record = await head.record(nap)
        assert (record["state"], record["attempts"]) == ("running", 1)
        assert (await head.record(waits))["state"] == "queued"
        await head.client.post("/v1/nodes/a/drain?deadline_s=0")
        await head.read(nap, until="retrying")
        close(head.process)  # in order: its jobs end, and its nodes

        head = await start()
        assert {each["state"] for each in (await joined(head)).values()} == {"draining", "live"}
        waits = await head.submit("echo", members={"nodes": {"node": "a"}})
        assert (await head.client.delete("/v1/nodes/a/drain")).json()["state"] == "live"
        assert (await head.record(waits, wait_s=60))["node"] == "a"
        head.kill()

        head = await start()
        assert {each["state"] for each in (await joined(head)).values()} == {"live"}
