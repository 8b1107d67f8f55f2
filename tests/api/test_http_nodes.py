"""A head over real nodes, over HTTP: jobs run on nodes, and what is lost on the way, or with a node, is not lost here.

The nodes are in the test's own event loop, each with a guard, a zygote and workers. Only the way to them is simulated.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from api_server import OwnServer, StartServer, problem_of
from support.certificate_checks import check_certificate
from support.engines import Cluster
from support.in_process_carrier import Faults
from support.processes import read_process
from support.waiting import Pending, until_async

from killable.api.cli.display.exit_codes import exit_code
from killable.api.explanation import story
from killable.supervisor import clock
from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import NoMachine
from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_drain import LEAVE_EARLY_S
from killable.supervisor.cluster.node_scaling import Scaling
from killable.supervisor.models import StartRefused
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

FORKING = PoolSpec(
    name="forking", modules=("support.forking_jobs",), folder=str(Path(__file__).parent.parent), workers=2
)
LASTING = Times(lease_s=60, poll_s=0.5, patience_s=30)
"""No node is lost, however slow the machine is."""
SHORT = Times(lease_s=3, poll_s=0.25, patience_s=0.5)


async def pids_of(server: OwnServer, job_id: str) -> list[int]:
    """Return a job's worker and the processes that it has told of in its first token."""
    seen = await server.read(job_id, until="token")
    record = await server.record(job_id)
    return [record["pid"], *json.loads(json.dumps(seen.events[-1].json()["value"]))]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if (seen := read_process(pid)) is not None and seen.state != "Z"]


async def nodes(server: OwnServer) -> dict[str, dict[str, Any]]:
    answer = await server.client.get("/v1/nodes")
    assert answer.status_code == 200, answer.text
    return {node["name"]: node for node in answer.json()["nodes"]}


async def test_a_job_runs_on_a_node_and_streams_back(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    async with start_server(engine=cluster.head) as server:
        assert {name: (node["state"], node["slots"]) for name, node in (await nodes(server)).items()} == {
            "a": ("live", 2), "b": ("live", 2),
        }  # fmt: skip
        jobs = [await server.submit("count", n=50) for _ in range(8)]
        ran_on = set()
        for job_id in jobs:
            seen = await server.read(job_id)
            assert seen.ids == list(range(52)) and seen.tokens == [f" {n}" for n in range(50)]
            record = await server.record(job_id)
            assert (record["state"], record["result"]) == ("completed", {"tokens": 50})
            node = record["node"]
            assert record["worker_id"].startswith(f"{node}.w-") and seen.events[0].json()["node"] == node
            assert seen.end["certificate"]["node"] == node and seen.end["certificate"]["proof"]
            check_certificate(record["certificate"], "", "")
            ran_on.add(node)
        assert ran_on == {"a", "b"}
        workers = (await server.client.get("/v1/workers")).json()["workers"]
        assert {worker["node"] for worker in workers} == {"a", "b"}
        again = await server.read(jobs[0], headers={"Last-Event-ID": "30"})
        assert again.ids == list(range(31, 52))


async def test_workers_that_were_not_reused_are_told_with_their_nodes(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    members = FORKING._replace(name="kept", modules=("support.cooperative_jobs",), jobs_per_worker_max=0, workers=1)
    async with start_server(engine=cluster.head, more=(members,)) as server:
        jobs = [await server.submit("changes_process", what="thread") for _ in range(2)]
        records = [await server.record(job_id, wait_s=60) for job_id in jobs]
        assert {record["node"] for record in records} == {"a", "b"}
        retired = (await server.client.get("/v1/workers")).json()["retired"]
        assert [each["at"] for each in retired] == sorted((each["at"] for each in retired), reverse=True)
        assert {each["job_id"]: each["worker_id"] for each in retired} == {
            record["job_id"]: record["worker_id"] for record in records
        }
        assert {(each["pool"], each["why"]) for each in retired} == {("kept", "1 thread(s) more than before")}


async def test_a_cancel_at_the_head_ends_the_whole_tree_on_the_node(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    async with start_server(engine=cluster.head, more=(FORKING,)) as server:
        job_id = await server.submit("keeps_family", members={"limits": {"grace_s": 60}})
        pids = await pids_of(server, job_id)
        assert len(alive(pids)) == len(pids) > 3
        answer = await server.client.delete(f"/v1/jobs/{job_id}?reason=enough")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
        assert alive(pids) == [], "the tree is gone when the head says so"
        certificate = (await server.record(job_id))["certificate"]
        check_certificate(certificate, "cancelled", "user")
        assert certificate["node"] and certificate["reason"] == "enough" and "tree_empty" in certificate
        assert certificate["relayed"] >= certificate["tree_empty"] and certificate["processes_swept"] >= 3
        native = await server.submit("sleep_native", members={"limits": {"grace_s": 60}})
        await server.read(native, until="started")
        await server.client.delete(f"/v1/jobs/{native}?grace_s=0")
        killed = (await server.record(native))["certificate"]
        assert killed["last_signal"] == "SIGKILL" and "term_sent" not in killed


@pytest.mark.parametrize("seed", range(3))
async def test_lost_late_and_doubled_messages_change_nothing(
    start_server: StartServer, tmp_path: Path, seed: int
) -> None:
    faults = Faults(lost=0.05, answer_lost=0.05, doubled=0.2, late=0.3, late_s=0.1)
    cluster = Cluster(("a", "b", "c"), Times(lease_s=60, poll_s=0.2, patience_s=0.3), seed)
    async with start_server(engine=cluster.head) as server:
        cluster.carrier.faults = faults
        counting = [await server.submit("count", n=200) for _ in range(12)]
        large = [await server.submit("echo", text="x" * 300_000, number=number) for number in range(2)]
        stuck = [await server.submit("gated", gates=[str(tmp_path / "never")]) for _ in range(4)]
        for job_id in stuck:
            await server.client.delete(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=0"})
        for job_id in counting:
            seen = await server.read(job_id)
            assert seen.ids == list(range(202)) and seen.tokens == [f" {n}" for n in range(200)]
            assert (await server.record(job_id))["attempts"] == 1
        for number, job_id in enumerate(large):
            record = await server.record(job_id, wait_s=60)
            result = (await server.client.get(f"/v1/jobs/{job_id}/result")).json()
            assert (record["state"], result["number"], len(result["text"])) == ("completed", number, 300_000)
        for job_id in stuck:
            assert (await server.record(job_id, wait_s=60))["state"] == "cancelled"
        cluster.carrier.faults = Faults()


async def test_a_node_without_its_head_ends_everything_and_its_jobs_are_told_afterwards(
    start_server: StartServer,
) -> None:
    cluster = Cluster(("a", "b"), SHORT)
    async with start_server(engine=cluster.head, more=(FORKING,)) as server:
        twice = {"limits": {"attempts_max": 2, "backoff_s": 0}}
        lost = await server.submit("keeps_family")
        pids = await pids_of(server, lost)
        node = (await server.record(lost))["node"]
        other = {"a": "b", "b": "a"}[node]
        naps = [await server.submit("napper", seconds=1e6, members=twice) for _ in range(2)]
        for job_id in naps:
            await server.read(job_id, until="started")
        first = {job_id: (await server.record(job_id))["node"] for job_id in naps}
        before = (await nodes(server))[node]["incarnation"]
        cluster.carrier.cut_off.add(node)
        seen = await server.read(lost)
        assert alive(pids) == [], "its tree is gone before the head tells of it"
        assert cluster.carrier.ended[node] == 1
        error = seen.end["error"]
        assert (error["code"], error["node"], error["fenced"]) == ("node_lost", node, "lease") and error["retryable"]
        certificate = seen.end["certificate"]
        assert certificate["node"] == node and certificate["unproven"] and "tree_empty" not in certificate
        for job_id in naps:
            if first[job_id] == node:
                again = await until_async(partial(ran_again, server, job_id), "its second attempt runs")
                assert again["node"] == other
        assert (await nodes(server))[node]["state"] == "lost"
        cluster.carrier.cut_off.clear()
        await until_async(lambda: is_live(server, node), "the node is back, in a new incarnation")
        assert (await nodes(server))[node]["incarnation"] != before
        for job_id in naps:
            await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")


async def ran_again(server: OwnServer, job_id: str) -> dict[str, Any] | Pending:
    record = await server.record(job_id)
    return record if record["attempts"] == 2 and record["started_at"] else Pending(record)


async def is_live(server: OwnServer, name: str) -> bool | Pending:
    found = await nodes(server)
    return (name in found and found[name]["state"] == "live") or Pending(found)


async def test_a_short_silence_loses_nothing(start_server: StartServer, tmp_path: Path) -> None:
    cluster = Cluster(("a",), Times(lease_s=60, poll_s=0.25, patience_s=0.25))
    async with start_server(engine=cluster.head) as server:
        gate = tmp_path / "gate"
        job_id = await server.submit("gated", gates=[str(gate)])
        await server.read(job_id, until="token")
        cluster.carrier.cut_off.add("a")
        await until_async(lambda: is_suspect(server, "a"), "the head notices")
        gate.touch()
        readiness = await server.client.get("/readyz")
        assert (readiness.status_code, readiness.json()["degraded"]) == (200, ["node a is suspect"])
        assert (await server.record(job_id))["state"] == "running"
        waiting = await server.submit("echo")
        assert (await server.record(waiting))["state"] == "queued", "a suspect node gets no job"
        cluster.carrier.cut_off.clear()
        assert (await server.read(job_id)).tokens == ["first", "gate"]
        assert (await server.record(waiting, wait_s=60))["state"] == "completed"


async def is_suspect(server: OwnServer, name: str) -> bool | Pending:
    node = (await nodes(server))[name]
    return node["state"] == "suspect" or Pending(node)


async def test_another_head_takes_the_nodes_and_the_first_one_ends(start_server: StartServer) -> None:
    cluster = Cluster(("a",), SHORT)
    async with start_server(engine=cluster.head, more=(FORKING,)) as server:
        job_id = await server.submit("keeps_family")
        pids = await pids_of(server, job_id)
        second = Cluster(("a",), LASTING)
        head = second.head(server.supervisor.settings)
        second.carrier.hosts = cluster.carrier.hosts
        await head.start()
        assert alive(pids) == [], "a node has ended the jobs of its first head when it answers the second one"
        await server.supervisor.until_shutdown()
        assert (await server.read(job_id)).end["error"]["code"] == "node_lost"
        problem_of(await server.client.post("/v1/jobs", json={"type": "echo"}), 503, "draining")
        assert [node.state for node in await head.nodes()] == ["live"]
        await head.close()


async def test_a_drained_node_gets_no_job(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    async with start_server(engine=cluster.head) as server:
        drained = await server.client.post("/v1/nodes/a/drain")
        assert (drained.status_code, drained.json()["state"]) == (200, "draining")
        for _ in range(4):
            assert (await server.record(await server.submit("echo"), wait_s=60))["node"] == "b"
        assert (await server.client.delete("/v1/nodes/a/drain")).json()["state"] == "live"
        problem = problem_of(await server.client.post("/v1/nodes/c/drain"), 404, "unknown_node")
        assert (problem["detail"], problem["node"]) == ("There is no node c", "c")
        problem = problem_of(await server.client.post("/v1/nodes/%3Cc%3E/drain"), 404, "unknown_node")
        assert "c>" not in json.dumps(problem)


async def test_the_drain_of_a_node_that_is_away_can_be_ended_and_not_begun(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), SHORT)
    async with start_server(engine=cluster.head) as server:
        await server.client.post("/v1/nodes/a/drain")
        cluster.carrier.cut_off.add("a")
        cluster.carrier.names = ("b",)
        await until_async(lambda: is_forgotten(server, "a"), "it is lost, and no machine of the cluster")
        problem_of(await server.client.post("/v1/nodes/a/drain"), 404, "unknown_node")
        ended = await server.client.delete("/v1/nodes/a/drain")
        assert (ended.status_code, ended.json()["state"]) == (200, "lost")
        assert ended.json()["detail"] == "it is not there; when it is, it gets jobs"
        problem_of(await server.client.delete("/v1/nodes/a/drain"), 404, "unknown_node")
        cluster.carrier.cut_off.clear()
        cluster.carrier.names = ("a", "b")
        await until_async(lambda: is_live(server, "a"), "it is back, and gets jobs")


async def is_forgotten(server: OwnServer, name: str) -> bool | Pending:
    found = await nodes(server)
    return name not in found or Pending(found)


async def test_a_pool_has_the_nodes_that_its_labels_select(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b", "c"), LASTING, labels={"a": {"gpu": "H100"}, "b": {"gpu": "A100"}, "c": {"off": "1"}})
    cluster.nodes = {"off": "!1"}
    elsewhere = FORKING._replace(name="later", modules=("support.memory_jobs",), nodes={"gpu": "in(B100,B200)"})
    async with start_server(engine=cluster.head, more=(FORKING._replace(nodes={"gpu": "H100"}), elsewhere)) as server:
        found = await nodes(server)
        assert {name: node["slots"] for name, node in found.items()} == {"a": 4, "b": 2}, "c is not to be used"
        assert found["a"]["labels"] == {"gpu": "H100", "node": "a"}
        jobs = [await server.submit("keeps_family") for _ in range(2)]
        for job_id in jobs:
            assert (await server.read(job_id, until="token")).events[0].json()["node"] == "a"
        waiting = await server.submit("keeps_family")
        assert (await server.record(waiting))["state"] == "queued", "b has slots, and not this pool"
        assert {(await server.record(await server.submit("echo"), wait_s=60))["node"] for _ in range(4)} <= {"a", "b"}
        for job_id in (waiting, *jobs):
            await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")
        why = "no node has gpu=in(B100,B200) (there are gpu: A100, H100)"
        problem = problem_of(await server.client.post("/v1/jobs", json={"type": "tidies_up"}), 404, "unknown_job_type")
        assert problem["detail"].endswith(f"those of pool later are not known: {why}")
        readiness = (await server.client.get("/readyz")).json()
        assert {pool["name"]: pool["detail"] for pool in readiness["pools"]}["later"] == why
        assert readiness["degraded"] == [f"pool later is restarting: {why}"]
        cluster.carrier.labels["d"] = {"gpu": "B200"}
        cluster.carrier.names = ("a", "b", "c", "d")
        await until_async(lambda: is_live(server, "d"), "a node of that pool joins")
        assert "tidies_up" in {each["name"] for each in (await server.client.get("/v1/job-types")).json()["job_types"]}


async def test_a_job_runs_on_the_nodes_that_it_selects_and_waits_for_them_without_blocking_others(
    start_server: StartServer,
) -> None:
    cluster = Cluster(("a", "b"), LASTING, labels={"a": {"zone": "a"}, "b": {"zone": "b"}})
    async with start_server(engine=cluster.head) as server:
        pinned = {"nodes": {"zone": "a"}}
        naps = [await server.submit("napper", seconds=1e6, members=pinned) for _ in range(2)]
        for job_id in naps:
            assert (await server.read(job_id, until="started")).events[0].json()["node"] == "a"
        waiting = [await server.submit("echo", members={"nodes": {"node": "a"}, "priority": 9}) for _ in range(3)]
        nowhere = await server.submit("echo", members={"nodes": {"zone": "c"}, "limits": {"queue_s": 3600}})
        for _ in range(4):
            assert (await server.record(await server.submit("echo"), wait_s=60))["node"] == "b"
            elsewhere = await server.record(await server.submit("echo", members={"nodes": {"zone": "!a"}}), wait_s=60)
            assert (elsewhere["node"], elsewhere["nodes"]) == ("b", {"zone": "!a"})
        records = [await server.record(job_id) for job_id in (*waiting, nowhere)]
        assert {record["state"] for record in records} == {"queued"}
        why = "no node has zone=c (there are zone: a, b)"
        assert [record["queue"]["detail"] for record in records] == ["", "", "", why]
        await server.client.delete(f"/v1/jobs/{naps[0]}?grace_s=0")
        for job_id in waiting:
            assert (await server.record(job_id, wait_s=60))["node"] == "a"
        await server.client.post("/v1/nodes/a/drain")
        drained = await server.record(await server.submit("echo", members={"nodes": {"zone": "a"}}))
        assert (drained["state"], drained["queue"]["detail"]) == (
            "queued", "no node with zone=a gets jobs (a: draining)",
        )  # fmt: skip
        await server.client.delete("/v1/nodes/a/drain")
        assert (await server.record(drained["job_id"], wait_s=60))["node"] == "a"
        late = await server.submit("echo", members={"nodes": {"zone": "c"}, "limits": {"queue_s": 0.01}})
        error = (await server.record(late, wait_s=60))["error"]
        assert (error["code"], error["message"]) == ("timeout.queue", f"queue_s of 0.01 s is over: {why}")
        cluster.carrier.labels["c"] = {"zone": "c"}
        cluster.carrier.names = ("a", "b", "c")
        assert (await server.record(nowhere, wait_s=60))["node"] == "c"
        await server.client.delete(f"/v1/jobs/{naps[1]}?grace_s=0")


async def test_an_attempt_that_is_tried_again_runs_where_its_job_may(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING, labels={"a": {"zone": "a"}, "b": {"zone": "b"}})
    async with start_server(engine=cluster.head) as server:
        members = {"nodes": {"zone": "a"}, "limits": {"attempts_max": 2, "backoff_s": 0}}
        job_id = await server.submit("napper", seconds=1e6, members=members)
        await server.read(job_id, until="started")
        await server.client.post("/v1/nodes/a/drain?deadline_s=0")
        await server.read(job_id, until="retrying")
        await until_async(partial(waits_for, server, job_id, "a: draining"), "it waits for its node")
        await server.client.delete("/v1/nodes/a/drain")
        again = await until_async(partial(ran_again, server, job_id), "its second attempt runs")
        assert again["node"] == "a"
        await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")


async def waits_for(server: OwnServer, job_id: str, what: str) -> dict[str, Any] | Pending:
    record = await server.record(job_id)
    return record if what in (record["queue"] or {}).get("detail", "") else Pending(record)


async def test_no_machine_that_is_selected_is_said(start_server: StartServer) -> None:
    cluster = Cluster(("a",), LASTING, labels={"a": {"zone": "a"}}, nodes={"zone": "b"})
    with pytest.raises(StartRefused, match=r"no node has zone=b \(there are zone: a\): see \[cluster\] nodes"):
        async with start_server(engine=cluster.head):
            pass


async def test_what_runs_past_the_deadline_of_a_drain_is_stopped_and_goes_elsewhere(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    async with start_server(engine=cluster.head, more=(FORKING,)) as server:
        await server.client.post("/v1/nodes/b/drain")
        once = await server.submit("keeps_family", members={"limits": {"grace_s": 60}})
        pids = await pids_of(server, once)
        again = {"limits": {"attempts_max": 2, "backoff_s": 0, "grace_s": 60}}
        twice = await server.submit("napper", seconds=1e6, members=again)
        await server.read(twice, until="started")
        await server.client.delete("/v1/nodes/b/drain")
        waits = (await server.client.post("/v1/nodes/a/drain?deadline_s=3600")).json()
        assert (waits["state"], waits["running"]) == ("draining", 2) and 3500 < waits["deadline_s"] <= 3600
        assert len(alive(pids)) == len(pids)
        await server.client.post("/v1/nodes/a/drain?deadline_s=0")
        end = (await server.read(once)).end
        assert alive(pids) == []
        assert (end["error"]["code"], end["error"]["node"], end["error"]["retryable"]) == ("node_drained", "a", True)
        assert end["error"]["message"] == "node a was drained: an operator has drained it"
        assert end["certificate"]["cause"] == "node_drained" and "tree_empty" in end["certificate"]
        moved = await until_async(partial(ran_again, server, twice), "it runs on the other node")
        assert moved["node"] == "b"
        drained = (await nodes(server))["a"]
        assert (drained["running"], drained["detail"]) == (0, "an operator has drained it")
        assert (await server.client.delete("/v1/nodes/a/drain")).json()["deadline_s"] is None
        await server.client.delete(f"/v1/jobs/{twice}?grace_s=0")


async def test_a_machine_that_ray_takes_away_is_drained_by_then(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    async with start_server(engine=cluster.head) as server:
        job_id = await server.submit("napper", seconds=1e6, members={"limits": {"attempts_max": 2, "backoff_s": 0}})
        await server.read(job_id, until="started")
        first = (await server.record(job_id))["node"]
        cluster.carrier.leaving[first] = clock.realtime() + LEAVE_EARLY_S
        moved = await until_async(partial(ran_again, server, job_id), "it runs on the other node")
        assert moved["node"] != first
        leaving = (await nodes(server))[first]
        assert (leaving["state"], leaving["detail"]) == ("draining", "Ray takes the machine away")
        await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")
        cluster.carrier.leaving.clear()
        await until_async(lambda: is_live(server, first), "Ray keeps it after all")


async def test_a_job_whose_only_machine_is_taken_away_waits_for_one_that_fits_and_explain_says_so(
    start_server: StartServer,
) -> None:
    cluster = Cluster(("a", "b"), LASTING, labels={"a": {"zone": "a"}, "b": {"zone": "b"}, "c": {"zone": "a"}})
    async with start_server(engine=cluster.head) as server:
        members = {"nodes": {"zone": "a"}, "limits": {"attempts_max": 2, "backoff_s": 0}}
        job_id = await server.submit("napper", seconds=1e6, members=members)
        await server.read(job_id, until="started")
        later = await server.submit("echo", members={"nodes": {"zone": "a"}})
        await server.record(later, wait_s=60)
        cluster.carrier.leaving["a"] = clock.realtime() + LEAVE_EARLY_S
        await server.read(job_id, until="retrying")
        queued = await server.submit("echo", members={"nodes": {"zone": "a"}})
        for each in (job_id, queued):
            record = await until_async(partial(waits_for, server, each, "a: draining"), "it waits, and not on b")
            assert "no node with zone=a gets jobs (a: draining)." in words(record)
        cluster.carrier.cut_off.add("a")
        cluster.carrier.names = ("b",)
        for each in (job_id, queued):
            record = await until_async(partial(waits_for, server, each, "there are"), "the machine is gone")
            assert "no node has zone=a (there are zone: b)." in words(record)
        cluster.carrier.names = ("b", "c")
        again = await until_async(partial(ran_again, server, job_id), "one that fits has come")
        assert (again["node"], (await server.record(queued, wait_s=60))["node"]) == ("c", "c")
        await server.client.delete(f"/v1/jobs/{job_id}?grace_s=0")


def words(record: dict[str, Any]) -> str:
    """Return what `explain` says of it."""
    told = story.tell(record, [])
    return " ".join((told.headline, *(each.text for each in told.paragraphs)))


async def test_jobs_and_workers_are_found_by_their_node_and_ended_by_it(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING)
    async with start_server(engine=cluster.head) as server:
        jobs = [await server.submit("napper", seconds=1e6) for _ in range(4)]
        for job_id in jobs:
            await server.read(job_id, until="started")
        node_of = {job_id: (await server.record(job_id))["node"] for job_id in jobs}
        on_a = {job_id for job_id, node in node_of.items() if node == "a"}
        assert len(on_a) == 2
        listed = (await server.client.get("/v1/jobs?node=a&state=active")).json()["jobs"]
        assert {each["job_id"] for each in listed} == on_a
        workers = (await server.client.get("/v1/workers?node=a")).json()["workers"]
        assert {worker["node"] for worker in workers} == {"a"}
        assert {worker["job_id"] for worker in workers if worker["job_id"]} == on_a
        samples = (await server.client.get("/metrics")).text
        assert 'killable_node_running{node="a"} 2.0' in samples and 'killable_nodes{state="live"} 2.0' in samples
        assert 'killable_node_delay_seconds{node="b"}' in samples
        done = (await server.client.post("/v1/jobs/cancel", json={"node": "a", "grace_s": 0})).json()
        assert {each["job_id"] for each in done["jobs"]} == on_a and done["cancelled"] == 2
        assert (await server.client.post("/v1/jobs/cancel", json={"state": "active", "grace_s": 0})).json()[
            "cancelled"
        ] == 2


async def test_a_machine_with_other_software_is_refused_in_words_while_the_others_work(
    start_server: StartServer,
) -> None:
    cluster = Cluster(("a", "b", "c", "d"), LASTING)

    def head(settings: Settings) -> Supervisor:
        supervisor = cluster.head(settings)
        cluster.carrier.other = {"b": {"version": "0.0.1"}, "c": {"python": "3.9"}}
        cluster.carrier.troubles = {"d": "Ray's memory monitor is on there"}
        return supervisor

    async with start_server(engine=head) as server:
        found = await nodes(server)
        assert {name: node["state"] for name, node in found.items()} == {
            "a": "live", "b": "refused", "c": "refused", "d": "live",
        }  # fmt: skip
        same = "install the same on each machine"
        assert found["b"]["detail"] == f"it has killable 0.0.1, and this server {version('killable')}: {same}"
        assert found["c"]["detail"] == f"it has Python 3.9, and this server {messages.PYTHON}: {same}"
        assert found["d"]["detail"] == "Ray's memory monitor is on there"
        ready = await server.client.get("/readyz")
        assert (ready.status_code, ready.json()["degraded"]) == (
            200, ["node b is refused", "node c is refused", "node d: Ray's memory monitor is on there"],
        )  # fmt: skip
        assert {(await server.record(await server.submit("echo"), wait_s=60))["node"] for _ in range(4)} <= {"a", "d"}


async def test_a_cluster_without_machines_is_said_with_the_exit_code_of_the_system(start_server: StartServer) -> None:
    with pytest.raises(NoMachine, match="the cluster has no machine with processors: start one with `ray start") as no:
        async with start_server(engine=Cluster((), LASTING).head):
            pass
    assert exit_code(no.value) == 71


async def test_an_idle_worker_of_a_node_is_killed_by_its_id(start_server: StartServer) -> None:
    cluster = Cluster(("a",), LASTING)
    async with start_server(engine=cluster.head) as server:
        idle = await until_async(lambda: an_idle_worker(server), "a spare is warm")
        assert read_process(idle["pid"]) is not None
        killed = await server.client.delete(f"/v1/workers/{idle['worker_id']}")
        assert (killed.status_code, killed.json()["worker_id"], killed.json()["node"]) == (200, idle["worker_id"], "a")
        assert alive([idle["pid"]]) == []
        problem_of(await server.client.delete(f"/v1/workers/{idle['worker_id']}"), 404, "unknown_worker")
        problem_of(await server.client.delete("/v1/workers/b.w-1"), 404, "unknown_worker")
        cluster.carrier.cut_off.add("a")
        problem_of(await server.client.delete("/v1/workers/a.w-999"), 404, "unknown_worker")
        cluster.carrier.cut_off.clear()
        assert (await server.record(await server.submit("echo"), wait_s=60))["state"] == "completed"


async def an_idle_worker(server: OwnServer) -> dict[str, Any] | Pending:
    workers = (await server.client.get("/v1/workers")).json()["workers"]
    return next((worker for worker in workers if worker["state"] == "idle"), None) or Pending(workers)


async def test_an_idle_node_is_given_back_and_taken_again_when_a_job_needs_it(start_server: StartServer) -> None:
    cluster = Cluster(("a", "b"), LASTING, scaling=Scaling(idle_s=0.01))
    async with start_server(engine=cluster.head) as server:
        await until_async(lambda: one_is_released(server), "one of two is given back, and the other is kept")
        found = await nodes(server)
        (name,) = (name for name, node in found.items() if node["state"] == "released")
        assert found[name]["detail"] == "it had no job for 0.01 s: its machine may go"
        assert found[name]["slots"] == 0 and (await server.client.get("/readyz")).json()["degraded"] == []
        await until_async(lambda: has_ended(cluster, name), "everything of it has ended")
        job_id = await server.submit("echo", members={"nodes": {"node": name}})
        record = await server.record(job_id, wait_s=60)
        assert (record["state"], record["node"]) == ("completed", name)
        assert 'killable_nodes{state="released"}' in (await server.client.get("/metrics")).text


async def one_is_released(server: OwnServer) -> bool | Pending:
    states = sorted(node["state"] for node in (await nodes(server)).values())
    return states == ["live", "released"] or Pending(states)


async def has_ended(cluster: Cluster, name: str) -> bool | Pending:
    return cluster.carrier.ended[name] == 1 or Pending(cluster.carrier.ended)
