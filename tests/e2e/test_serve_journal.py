"""`killable serve --journal`: what was accepted survives the death of the server; and how that can fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from support import user_jobs
from support.killable_command import COMMAND, Command, Server
from support.processes import read_process
from support.waiting import Pending, until

from killable.api.client.client import Client
from killable.supervisor.journal.journal_file import DroppedNote, JournalFile

CONFIGURATION = """
[server]
port = 0
journal = "state/jobs.journal"

[pools.own]
module = "./my_jobs.py"
workers = 1
"""
Wire = list[tuple[str, str, str]]


class Runs:
    """One server after the other, in one folder and with one journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "state" / "jobs.journal"
        self.server: Server
        self.client = httpx.Client(timeout=60)

    def start(self, *args: str, program: Sequence[str] = ()) -> None:
        large = {"KILLABLE_SERVER__BODY_BYTES_MAX": "2MiB"}
        self.server = Server(Command(self.folder, program=program), *args, env=large)
        self.client.base_url = self.server.url

    def start_again(self) -> str:
        """Kill it at once, and start the next one; return what the dead one said."""
        said = self.server.die()
        self.start()
        return said

    def submit(self, type: str, /, *, key: str = "", members: dict[str, Any] | None = None, **input: Any) -> str:
        headers = {"idempotency-key": key} if key else {}
        answer = self.client.post("/v1/jobs", json={"type": type, "input": input} | (members or {}), headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def degraded(self) -> list[str]:
        """Return what is degraded, but for what any busy machine is."""
        told: list[str] = self.client.get("/readyz").json()["degraded"]
        return [text for text in told if "event loop" not in text]

    def record(self, job_id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return record

    def ended(self, job_id: str) -> dict[str, Any]:
        """Return the record once it has ended and, if it had a process, the next one is warm."""
        self.client.get(f"/v1/jobs/{job_id}/result", params={"wait_s": 60})

        def is_whole() -> dict[str, Any] | Pending:
            record = self.record(job_id)
            return record if not record["pid"] or "slot_ready" in record["certificate"] else Pending(record)

        return until(is_whole, "the certificate is whole")

    def stream(self, job_id: str, after: str = "", until: str = "") -> Wire:
        """Return the events of a stream, to its end or to the first one of a name."""
        found: Wire = []
        headers = {"last-event-id": after} if after else {}
        with connect_sse(self.client, "GET", f"/v1/jobs/{job_id}/stream", headers=headers) as source:
            for event in source.iter_sse():
                if not event.data:
                    continue  # a ping
                found.append((event.id, event.event, event.data))
                if event.event == until:
                    break
        return found

    def replayed(self, key: str, type: str, **input: Any) -> str:
        """Submit once more with a key; return which job it was."""
        request = {"json": {"type": type, "input": input}, "headers": {"idempotency-key": key}}
        answer = self.client.post("/v1/jobs", **request)  # type: ignore[arg-type]
        assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true"), answer.text
        return str(answer.json()["job_id"])


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    shutil.copy(user_jobs.__file__, tmp_path / "my_jobs.py")
    (tmp_path / "killable.toml").write_text(CONFIGURATION)
    (tmp_path / "state").mkdir()
    runs = Runs(tmp_path)
    yield runs
    runs.client.close()
    if runs.server.process.poll() is None:
        runs.server.stop()


@pytest.mark.row("D23")
def test_a_job_that_waits_to_be_run_again_is_run_by_the_next_server(runs: Runs) -> None:
    """By the one after that too, when its wait is over: whoever reads along misses nothing, and sees no id twice."""
    runs.start()
    job_id = runs.submit("killed", times=2, members={"limits": {"attempts_max": 3, "backoff_s": 4}})
    seen = runs.stream(job_id, until="retrying")
    for _ in range(2):
        runs.submit("add", a=1)  # when this is on disk, so is what was said before
        runs.start_again()
        seen += runs.stream(job_id, after=seen[-1][0], until="retrying")
    record = runs.ended(job_id)
    assert (record["state"], record["result"], record["attempts"]) == ("completed", 3, 3)
    again = ["restored", "started"]
    assert [name for _, name, _ in seen] == ["started", "retrying", *again, "retrying", *again, "completed"]
    ids = [int(id) for id, _, _ in seen]
    assert ids == sorted(set(ids))
    with Client(runs.server.url) as client:
        assert [event.name for event in client.job(job_id).events()] == [*again, "completed"]


def test_one_whose_type_is_gone_by_then_ends_behind_all_that_was_read(runs: Runs) -> None:
    runs.start()
    job_id = runs.submit("killed", members={"limits": {"attempts_max": 2, "backoff_s": 1000}})
    last_seen = runs.stream(job_id, until="retrying")[-1][0]
    runs.submit("add", a=1)
    runs.server.die()
    module = runs.folder / "my_jobs.py"
    module.write_text(module.read_text().replace("def killed(", "def no_longer(").replace("[killed]", "[no_longer]"))
    runs.start()
    assert [name for _, name, _ in runs.stream(job_id, after=last_seen)] == ["restored", "failed"]
    record = runs.record(job_id)
    assert (record["error"]["code"], record["attempts"]) == ("spawn", 1)


@pytest.mark.row("C8")
def test_one_whose_whole_time_is_over_by_then_never_begins(runs: Runs) -> None:
    runs.start()
    runs.stream(runs.submit("tick"), until="token")
    job_id = runs.submit("add", a=1, members={"limits": {"total_s": 1000}})
    runs.server.die()
    with closing(JournalFile.open(str(runs.journal))) as file:  # as if it had been down for long
        rows = [row for row in file.read() if row.job_id == job_id]
        file.write([DroppedNote(row.number) for row in rows])
        (row,) = (replace(row, accepted=row.accepted | {"created_at": "2020-01-01T00:00:00.000Z"}) for row in rows)
        file.put_rows([row])
    runs.start()
    record = runs.ended(job_id)
    assert (record["error"]["code"], record["error"]["limit"]) == ("timeout.queue", "total_s")
    assert (record["attempts"], record["worker_id"]) == (0, None)


@pytest.mark.row("B16", "H6", "PEERS-I")
def test_what_was_accepted_survives_the_death_of_the_server(runs: Runs) -> None:
    runs.start()
    assert runs.journal.stat().st_mode & 0o777 == 0o600
    instance = runs.server.announcement["instance_id"]
    done = runs.submit("greet", key="done-1", name="x", times=2)
    told = {done: runs.ended(done)}
    failed = runs.submit("fails")
    told[failed] = runs.ended(failed)
    streams = {job_id: runs.stream(job_id) for job_id in told}
    running = runs.submit("tick")
    last_seen = runs.stream(running, until="token")[-1][0]
    pid = runs.record(running)["pid"]
    members = {"tags": {"team": "a"}, "limits": {"run_s": 7, "operation_s": {"load": 3}}}
    waiting = [runs.submit("add", a=1, key="first-1", members=members), runs.submit("add", a=2)]
    waiting.append(runs.submit("add", a=3, members={"priority": 5}))
    marked = runs.client.post("/v1/jobs", json={"operation": "add", "a": 4}, headers={"x-correlation-id": "c-1"})
    waiting.append(marked.json()["job_id"])
    waiting.append(runs.submit("greet", name="x" * (1 << 20)))  # lies in sealed memory
    before = [runs.record(job_id) for job_id in waiting]
    assert {record["state"] for record in before} == {"queued"}

    runs.start_again()
    assert read_process(pid) is None
    assert {job_id: runs.record(job_id) for job_id in told} == told
    assert {job_id: runs.stream(job_id) for job_id in told} == streams
    assert runs.client.get(f"/v1/jobs/{done}/result").json() == {"times": 2}
    assert runs.stream(done, after="1") == streams[done][2:]

    after = [runs.ended(job_id) for job_id in waiting]
    for old, new in zip(before, after, strict=True):
        kept = ("job_id", "type", "created_at", "limits", "tags", "tenant", "priority", "correlation_id", "markers")
        assert {name: old.get(name) for name in kept} == {name: new.get(name) for name in kept}
        assert new["instance_id"] == runs.server.announcement["instance_id"] != instance
    assert [record["result"] for record in after] == [3, 4, 5, 6, {"times": 1}]
    with runs.client.stream("GET", f"/v1/jobs/{marked.json()['job_id']}/stream") as answer:
        assert answer.read().endswith(b"data: [DONE]\n\n")
    listed = [job["job_id"] for job in runs.client.get("/v1/jobs").json()["jobs"]]
    assert listed == [*reversed(waiting), running, failed, done]

    lost = runs.record(running)
    assert (lost["state"], lost["error"]["code"], lost["attempts"]) == ("failed", "supervisor_lost", 1)
    assert lost["error"]["instance_id"] == lost["instance_id"] == instance and lost["error"]["pid"] == pid
    assert instance in lost["error"]["message"] and "ended the orphans of dead servers" in lost["error"]["message"]
    ((id, name, data),) = runs.stream(running, after=last_seen)
    assert (name, json.loads(data)["error"]) == ("failed", lost["error"]) and int(id) == lost["events"] - 1
    headers = {"last-event-id": id}
    assert runs.client.get(f"/v1/jobs/{running}/stream", headers=headers).status_code == 204
    assert runs.stream(running) == [(id, name, data)]
    with Client(runs.server.url) as client:
        assert [event.name for event in client.job(running).events(after=int(last_seen))] == ["failed"]

    explained = Command(runs.folder, runs.server.url).ok("explain", running)
    assert "supervisor_lost" in explained and instance in explained.replace("\n", " ")

    assert (runs.replayed("done-1", "greet", name="x", times=2), done) == (done, done)
    conflict = runs.client.post(
        "/v1/jobs", json={"type": "add", "input": {"a": 9}}, headers={"idempotency-key": "first-1"}
    )
    assert (conflict.status_code, conflict.json()["job_id"]) == (422, waiting[0])

    runs.submit("add", a=1)  # what came before it is on disk when it is answered
    said = runs.start_again()
    started = [word for line in said.splitlines() if " started " in line for word in line.split() if "job_id" in word]
    # In the order that the queue had: priority first, then as they had come.
    assert started[:5] == [f"job_id={waiting[number]}" for number in (2, 0, 1, 3, 4)]
    # Nothing changes any more.
    assert runs.record(running) == lost and runs.stream(running) == [(id, name, data)]
    assert [runs.record(job_id) for job_id in waiting] == after


@pytest.mark.row("B16")
def test_a_start_that_is_refused_ends_no_job_and_one_without_the_type_does(runs: Runs) -> None:
    runs.start()
    ticking = runs.submit("tick")
    lost, kept = runs.submit("add", a=1), runs.submit("greet", name="x")
    runs.server.die()
    source = (runs.folder / "my_jobs.py").read_text()
    (runs.folder / "my_jobs.py").write_text("this is no Python\n")
    refused = Command(runs.folder).run("serve")
    assert refused.returncode == 78 and "no pool can start a job" in refused.stderr, refused.stderr

    (runs.folder / "my_jobs.py").write_text(source.replace("@job\ndef add(", "def add("))
    runs.start()
    assert runs.record(ticking)["error"]["code"] == "supervisor_lost"
    assert runs.ended(kept)["state"] == "completed"
    error = runs.ended(lost)["error"]
    assert error["code"] == "spawn" and "the restarted server has no job type add" in error["message"]
    assert [json.loads(data)["error"] for _, _, data in runs.stream(lost)] == [error]


@pytest.mark.row("B16")
def test_a_shutdown_ends_all_jobs_and_the_next_server_says_so(runs: Runs) -> None:
    runs.start()
    jobs = [runs.submit("tick"), runs.submit("add", a=1)]
    code, left, said = runs.server.stop()
    assert (code, left) == (0, []), said
    runs.start()
    records = [runs.record(job_id) for job_id in jobs]
    assert [(record["state"], record["certificate"]["by"]) for record in records] == [("cancelled", "shutdown")] * 2
    assert runs.client.get("/v1/metrics").json()["queued"] == 0


@pytest.mark.row("B16")
def test_a_file_that_cannot_be_the_journal_is_refused_and_stays_as_it_was(runs: Runs) -> None:
    runs.start()
    second = Command(runs.folder).run("serve")
    assert second.returncode == 78 and "Traceback" not in second.stderr
    assert f"{runs.journal} is in use: another server uses it" in second.stderr.replace("\n", " ")
    assert runs.degraded() == []
    assert Command(runs.folder).run("check").returncode == 0  # which has no use for it
    garbage = runs.folder / "garbage"
    garbage.write_bytes(b"no journal at all\n" * 1000)
    refused = Command(runs.folder).run("serve", "--journal", "garbage")
    assert refused.returncode == 78 and "Traceback" not in refused.stderr
    assert f"{garbage} is not a journal" in refused.stderr.replace("\n", " ")
    assert garbage.read_bytes() == b"no journal at all\n" * 1000


TMPFS = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=2m none state && exec "$0" "$@"')
"""Its own small disk where the journal lies; /proc/PID/root shows it to us."""


FULL = (
    "unshare",
    "-m",
    "sh",
    "-c",
    "mount -t tmpfs -o size=64k none state; head -c 1M /dev/zero > state/x; exec $0 $@",
)


@pytest.mark.row("B16")
def test_a_start_on_a_full_disk_is_no_fault_of_the_configuration(own_mounts: None, tmp_path: Path) -> None:
    """The unit does not try 78 again, as nothing mends a configuration by itself; a disk may have room again."""
    (tmp_path / "my_jobs.py").write_text("from killable import job\n\n\n@job\ndef none() -> None: ...\n")
    (tmp_path / "killable.toml").write_text(CONFIGURATION)
    (tmp_path / "state").mkdir()
    refused = Command(tmp_path, program=[*FULL, *COMMAND]).run("serve", "--log-format", "json")
    assert refused.returncode == 71, refused.stderr
    told = json.loads(refused.stderr.splitlines()[-1])
    assert (told["event"], told["code"]) == ("not_started", "cannot_serve")
    assert "cannot be opened and written: " in told["error"]


GROWS = """

@job
def grows(gate: str) -> str:
    wait_for(gate)
    return "x" * 300_000
"""


@pytest.fixture
def own_mounts() -> None:
    """Come before `runs`, which ends a server."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace of one's own is not permitted here")


@pytest.mark.row("B16")
def test_a_full_disk_refuses_submissions_and_keeps_what_is_owed_until_there_is_room(
    own_mounts: None, runs: Runs, gate: str
) -> None:
    with open(runs.folder / "my_jobs.py", "a") as file:
        file.write(GROWS)
    runs.start(program=[*TMPFS, *COMMAND])
    state = Path(f"/proc/{runs.server.process.pid}/root", *runs.folder.parts[1:], "state")
    job_id = runs.submit("grows", gate=gate)
    runs.stream(job_id, until="started")
    assert runs.degraded() == []

    with pytest.raises(OSError), open(state / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    large = {"type": "greet", "input": {"name": "x" * 500_000}}
    key = {"idempotency-key": "large-1"}
    answer = runs.client.post("/v1/jobs", json=large, headers=key)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["retryable"]) == (503, "journal_failed", True)
    assert int(answer.headers["retry-after"]) >= 1 and "disk is full" in problem["detail"]
    assert [job["job_id"] for job in runs.client.get("/v1/jobs").json()["jobs"]] == [job_id]
    ready = runs.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["degraded"][0].startswith("journal: ")
    open(gate, "wb").close()
    end = runs.ended(job_id)
    assert (end["state"], end["durable"]) == ("completed", False)  # told although it is not on disk, and marked
    ((_, _, data),) = runs.stream(job_id, after=str(end["events"] - 2))
    assert json.loads(data)["durable"] is False
    assert is_ended_in(shutil.copytree(state, runs.folder / "full"), job_id) is False

    (state / "ballast").unlink()
    until(lambda: Pending(seen) if (seen := runs.degraded()) else True, "it works again")
    following = runs.client.post("/v1/jobs", json=large, headers=key)
    assert following.status_code == 202 and "idempotent-replayed" not in following.headers
    runs.ended(following.json()["job_id"])
    assert is_ended_in(shutil.copytree(state, runs.folder / "works"), job_id) is True
    runs.server.die()
    for name in os.listdir(runs.folder / "works"):
        shutil.move(runs.folder / "works" / name, runs.folder / "state" / name)
    runs.start()
    assert runs.record(job_id) == end | {"durable": True}
    listed = [job["job_id"] for job in runs.client.get("/v1/jobs").json()["jobs"]]
    assert listed == [following.json()["job_id"], job_id]


def is_ended_in(folder: Path, job_id: str) -> bool:
    """Look into a copy of a journal that is in use."""
    connection = sqlite3.connect(folder / "jobs.journal")
    try:
        query = "SELECT ended IS NOT NULL FROM jobs WHERE job_id = ?"
        return bool(connection.execute(query, (job_id,)).fetchone()[0])
    finally:
        connection.close()


@pytest.mark.row("B16")
def test_what_is_no_longer_kept_is_no_longer_in_the_file(runs: Runs) -> None:
    (runs.folder / "killable.toml").write_text(CONFIGURATION.replace("port = 0", "port = 0\nkeep_jobs = 2"))
    runs.start()
    jobs: list[str] = []
    for number in range(4):
        jobs.append(runs.submit("add", a=number))
        runs.ended(jobs[-1])  # now: the next two ends let it go
    runs.server.stop()
    assert in_file(runs.journal) == jobs[2:]

    (runs.folder / "killable.toml").write_text(CONFIGURATION.replace("port = 0", 'port = 0\nkeep_s = "1ms"'))
    runs.start()  # its time is over by the clock on the wall
    gone = runs.client.get(f"/v1/jobs/{jobs[3]}").json()
    assert (gone["code"], gone["dropped_by"]) == ("unknown_job", "keep_s")
    runs.server.stop(signal.SIGTERM)
    assert in_file(runs.journal) == []


def in_file(journal: Path) -> list[str]:
    """Return the jobs in a journal that nobody has open; of others there is nothing."""
    connection = sqlite3.connect(journal)
    try:
        rows = connection.execute("SELECT number, job_id FROM jobs ORDER BY number").fetchall()
        pieces = connection.execute("SELECT DISTINCT number FROM pieces").fetchall()
    finally:
        connection.close()
    assert {number for (number,) in pieces} <= {number for number, _ in rows}
    return [job_id for _, job_id in rows]


@pytest.mark.row("B16")
def test_a_path_on_the_command_line_wins_and_is_from_where_one_stands(runs: Runs) -> None:
    runs.start("--journal", "other")
    assert (runs.folder / "other").exists() and not os.path.exists(runs.journal)


@pytest.mark.row("B16")
def test_the_verb_journal_checks_copies_and_saves_the_file_of_a_server(runs: Runs) -> None:
    runs.start()
    done = [runs.submit("add", a=number) for number in (1, 2)]
    for job_id in done:
        runs.ended(job_id)
    command = Command(runs.folder)
    assert command.ok("journal", "verify", "state/jobs.journal") == (
        "state/jobs.journal: 2 jobs: 0 waiting, 0 running, 2 ended\n"
    )
    copied = command.json("journal", "backup", "state/jobs.journal", "copy")
    assert (copied["sound"], copied["jobs"], copied["written"]) == (True, 2, "copy")
    runs.server.die()
    with closing(JournalFile.open(str(runs.journal))) as file:
        file._connection.execute("UPDATE pieces SET data = 'x' WHERE number = 1 AND kind = 'result'")
    found = command.run("journal", "verify", "state/jobs.journal", "--json")
    assert found.returncode == 1 and json.loads(found.stdout)["damaged_rows"] == [
        {"number": 1, "job_id": done[0], "why": "the checksum of its result is wrong"}
    ]
    assert command.run("journal", "backup", "state/jobs.journal", "another").returncode == 65
    said = command.ok("journal", "salvage", "state/jobs.journal", "saved")
    assert f"  row 1, {done[0]}: the checksum of its result is wrong\nwritten: saved\n" in said
    for args, code, words in (
        (("verify", "my_jobs.py"), 65, "is not a journal"),
        (("verify", "nowhere"), 65, "there is no journal nowhere"),
        (("backup", "saved"), 2, "needs NEW, the file to write"),
        (("verify", "saved", "more"), 2, "takes one file"),
    ):
        refused = command.run("journal", *args)
        assert refused.returncode == code and words in refused.stderr.replace("\n", " "), refused.stderr
    for journal, kept in (("saved", done[1:]), ("copy", done)):
        runs.start("--journal", journal)
        assert [job["job_id"] for job in runs.client.get("/v1/jobs").json()["jobs"]] == kept[::-1]
        runs.server.die()
    runs.start()  # the damaged one is set aside
    assert [job["job_id"] for job in runs.client.get("/v1/jobs").json()["jobs"]] == done[1:]
    assert f"journal_row_set_aside job_id={done[0]}" in runs.server.die()
