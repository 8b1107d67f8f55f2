"""The verbs of an operator against a real server: workers, logs, explain, types, wait, drain, shutdown, completion."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.killable_command import COMMAND, Command, Serve, Server, open_gate, read_line, start_detached
from support.long_wait_server import NO_STALLS, long_wait_server
from support.processes import computes
from support.waiting import Pending, until

# ── workers ──


def workers(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command.json("workers")["workers"]
    return found


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two
        return False


@pytest.mark.row("G1")
@pytest.mark.row("G9")
def test_workers_are_listed_with_what_they_use(server: Server, command: Command) -> None:
    job_id = start_detached(command, "compute")

    def computed() -> list[dict[str, Any]] | Pending:
        found = workers(command)
        return found if any(worker["cpu"] and worker["job_id"] for worker in found) else Pending(found)

    found = until(computed, "one has used the processor for a tick")
    below = {process.pid for process in psutil.Process(server.process.pid).children(recursive=True)}
    assert {worker["pid"] for worker in found if worker["pid"]} <= below
    (busy,) = [worker for worker in found if worker["state"] == "busy"]
    assert (busy["job_id"], busy["type"]) == (job_id, "compute")
    assert busy["cpu"] > 0 and busy["rss_bytes"] > 1 << 20 and busy["age_s"] > 0
    head, _, *rows = command.ok("workers").splitlines()
    assert head.split() == ["WORKER", "POOL", "STATE", "JOB", "TYPE", "PID", "AGE", "JOBS", "CPU", "RSS", "USS"]
    assert any(row.split()[:4] == [busy["worker_id"], "my_jobs", "busy", job_id[:12]] for row in rows)


@pytest.mark.own_server
@pytest.mark.row("G4")
def test_pools_are_listed_with_their_slots_and_what_they_recover_from(server: Server, command: Command) -> None:
    id = start_detached(command, "tick")
    command.ok("kill", id, "--now")
    command.ok("submit", "add", "-i", "a=1")  # on the worker that has come in its place
    start_detached(command, "tick")
    (announced,) = server.announcement["pools"]
    done = command.run("workers", "--pools")
    head, _, row, _, title, reasons, _, ended = done.stdout.splitlines()
    assert head.split()[:5] == ["POOL", "STATE", "START", "BUSY", "IDLE"] and "RECOVERY" in head
    assert title == "workers that have ended" and reasons.split()[:3] == ["POOL", "STOPPED", "DIED"]
    assert ended.split()[:3] == [announced["name"], "1", "0"]
    assert row.split()[:4] == [announced["name"], "ready", announced["start_method"], f"1/{announced['workers_max']}"]
    (pool,) = command.json("workers", "--pools")["pools"]
    assert (pool["state"], pool["busy"], pool["quarantined"], pool["restarts"]) == ("ready", 1, 0, 0)
    assert pool["recovery_ms"]["last"] > 0
    refused = command.run("workers", "--pools", "--node", "a")
    assert refused.returncode == 65 and "--node" in refused.stderr


def test_pools_are_read_without_the_workers_from_a_stream_that_is_closed(command: Command) -> None:
    event = {"pools": [], "workers": None, "retired": None}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = command.start("workers", "--pools", "--json", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as sent:
            assert sent.readline().split()[1] == b"/v1/workers/stream?workers=false"
            while sent.readline().strip():
                pass
            head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            connection.sendall(f"{head}id: 1\nevent: now\ndata: {json.dumps(event)}\n\n".encode())
            assert sent.read() == b"", "it closes what would go on for ever"
        assert json.loads(asked.communicate(timeout=60)[0]) == {"pools": []} and asked.returncode == 0


def test_ps_says_how_many_jobs_have_ended_in_the_last_minute(command: Command) -> None:
    before = command.json("metrics")["ended_last_minute"]
    command.ok("submit", "add", "-i", "a=1")
    after = command.json("metrics")["ended_last_minute"]
    assert 1 <= after <= before + 1
    assert re.search(r"; \d+ ended in the last minute$", command.run("ps").stderr.strip())


def test_an_idle_worker_that_is_killed_is_replaced_by_a_warm_one(command: Command) -> None:
    def warm() -> dict[str, Any] | Pending:
        found = workers(command)
        return next((worker for worker in found if worker["state"] == "idle"), Pending(found))

    idle = until(warm, "a worker is warm")
    plan = command.run("kill", idle["worker_id"], "--dry-run")
    assert plan.stdout == f"{idle['worker_id']}  idle  pid {idle['pid']}  would be killed\n"
    done = command.run("kill", idle["worker_id"])
    assert (done.returncode, done.stdout) == (0, f"{idle['worker_id']}  killed  pid {idle['pid']}\n"), done.stderr

    def replaced() -> dict[str, Any] | Pending:
        found = [w for w in workers(command) if w["state"] == "idle" and w["worker_id"] != idle["worker_id"]]
        return found[0] if found else Pending(workers(command))

    warm = until(replaced, "another worker is warm")
    assert psutil.Process(warm["pid"]).is_running()
    assert not psutil.pid_exists(idle["pid"])


@pytest.mark.row("G3")
def test_killing_a_busy_worker_cancels_its_job(command: Command) -> None:
    job_id = start_detached(command, "tick")
    (busy,) = [worker for worker in workers(command) if worker["state"] == "busy"]
    done = command.json("kill", busy["worker_id"], "--reason", "hot")["killed"]
    assert done[0]["worker_id"] == busy["worker_id"]
    certificate = command.json("inspect", job_id)["certificate"]
    assert (certificate["by"], certificate["reason"]) == ("operator", "hot")
    assert not psutil.pid_exists(busy["pid"])


# ── kill all, and what dead servers leave ──


@pytest.mark.row("G5")
def test_kill_all_ends_the_queued_ones_before_they_begin_and_leaves_none(server: Server, command: Command) -> None:
    (pool,) = server.announcement["pools"]
    running = [start_detached(command, "tick") for _ in range(pool["workers_max"])]
    queued = [command.ok("submit", "tick", "-d").strip() for _ in range(3)]
    plan = command.json("kill", "--all", "--dry-run")["would_kill"]
    assert set(plan) == {*running, *queued}
    done = command.run("kill", "--all", "--reason", "enough")
    assert done.returncode == 0
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == sorted(id[:12] for id in (*running, *queued))
    for job_id in queued:  # none of them got the worker of one that was killed
        assert command.json("inspect", job_id)["started_at"] is None
    assert command.json("ps")["jobs"] == []


@pytest.mark.parametrize("named", [False, True], ids=["all", "named"])
def test_jobs_that_the_server_has_forgotten_when_they_are_dead_were_killed(
    folder: Path, serve: Serve, named: bool
) -> None:
    server = serve("my_jobs.py", "--port", "0", env={"KILLABLE_SERVER__KEEP_JOBS": "1"})
    own = Command(folder, server.url)
    jobs = [start_detached(own, "tick", limits={"grace_s": 0}) for _ in range(2)] + [
        own.ok("submit", "tick", "-d").strip()
    ]
    done = own.run("kill", *(jobs if named else ["--all"]))
    assert done.returncode == 0 and "unknown" not in done.stderr, done.stderr
    ends = {line.split()[1] for line in done.stdout.splitlines()}
    assert ends <= {"cancelled", "ended"}, "dead they are; how, may be forgotten"
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == sorted(job_id[:12] for job_id in jobs)


@pytest.mark.own_server
@pytest.mark.row("G5")
def test_what_a_dead_server_leaves_is_gone_at_the_next_start(
    server: Server, command: Command, serve: Serve, folder: Path
) -> None:
    start_detached(command, "leaves_a_daemon", file=str(folder / "daemon"))
    daemon = int((folder / "daemon").read_text())
    assert psutil.pid_exists(daemon)
    below = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.communicate()
    serve("my_jobs.py", "--port", "0")

    def left() -> bool | Pending:
        alive = [process for process in below if lives(process)]
        return Pending(alive) if alive or psutil.pid_exists(daemon) else True

    until(left, "nothing of the dead server is left")


# ── logs, explain, types ──


def test_logs_are_what_the_job_printed(command: Command, gate: str) -> None:
    job_id = command.ok("submit", "counts", "-i", "steps=3", "-d").strip()
    command.ok("result", job_id, "--wait", "30s")
    assert command.ok("logs", job_id) == "step 1\nstep 2\nstep 3\n"
    assert command.ok("logs", job_id, "-f") == "step 1\nstep 2\nstep 3\n"
    assert command.ok("logs", job_id, "-n", "1") == "step 3\n"
    assert command.ok("logs", job_id, "-n", "0") == ""
    lines = [json.loads(line) for line in command.ok("logs", job_id, "--json").splitlines()]
    assert [line["data"]["text"] for line in lines] == ["step 1", "step 2", "step 3"]
    assert {line["event"] for line in lines} == {"log"}


def test_logs_of_a_running_job_end_where_it_is_and_follow_goes_on(command: Command, gate: str) -> None:
    job_id = start_detached(command, "prints", gate=gate)
    assert command.ok("logs", job_id) == "before\n"
    for options in (("-f",), ("-f", "-n", "1")):
        with command.start("logs", job_id, *options) as following:
            assert read_line(following) == "before\n"
            if options[-1] == "1":
                open_gate(gate)
                assert following.stdout is not None
                assert following.stdout.read() == "after\n"
            else:
                following.send_signal(signal.SIGINT)
                following.communicate(timeout=60)
                assert following.returncode == 130
    assert command.ok("result", job_id, "--wait", "30s") == "done\n"


@pytest.mark.row("PEERS-O")
def test_explain_tells_the_story_of_a_job_in_native_code(folder: Path) -> None:
    with long_wait_server(folder, "my_jobs.py", "--port", "0") as server:
        command = Command(folder, server.url)
        job_id = start_detached(command, "native", limits={"ack_s": 0.1})
        until(computes(command.json("inspect", job_id)["pid"]), "it is inside its native call")
        running = command.ok("explain", job_id)
        assert "it has been running for" in running and "None. It has not ended yet." in running
        command.ok("kill", job_id, "--reason", "stuck")
        told = command.ok("explain", job_id[:10])
        document = command.json("explain", job_id)
    assert told.startswith(f"{job_id} (native) was cancelled by user: stuck\n")
    for words in (
        "the job did not acknowledge it", "SIGKILL was sent", "in native", "tick",
        "Change  ack_s. It is 0.1 s for this job", "--ack-s 0.2s",
    ):  # fmt: skip
        assert words in told, told
    assert (document["state"], document["change"]["setting"]) == ("cancelled", "ack_s")
    assert document["steps"][0]["step"] == "SIGTERM was sent"


def test_explain_of_a_wait_says_which_jobs_had_the_workers(server: Server, command: Command) -> None:
    (pool,) = server.announcement["pools"]
    running = [start_detached(command, "tick") for _ in range(pool["workers_max"])]
    done = command.run("submit", "add", "-i", "a=1", "--queue-s", "0.2")
    assert done.returncode == 124
    told = " ".join(command.ok("explain", done.stderr.split()[0]).split())
    number = "1 worker of its pool was" if len(running) == 1 else f"{len(running)} workers of its pool were"
    assert f"{number} busy then, with " in told
    assert all(f"{id[:12]} (tick, for " in told for id in running)


def test_explain_of_a_failure_has_its_traceback(command: Command) -> None:
    done = command.run("submit", "fails")
    job_id = done.stderr.splitlines()[0]
    told = command.ok("explain", job_id)
    assert "ValueError: no luck" in told and 'raise ValueError("no luck")' in told
    assert told.rstrip().splitlines()[-1].lstrip().startswith(("Change", "where"))
    assert command.run("explain", "ffff").returncode == 4


def test_types_are_listed_with_their_inputs(command: Command) -> None:
    table = command.ok("types")
    assert re.search(r"^greet +my_jobs +name: string, times: integer = 1, loud: boolean = false +Greet", table, re.M)
    assert {"greet", "tick"} <= {each["name"] for each in command.json("types")["job_types"]}
    one = command.ok("types", "greet")
    assert re.search(r"^limits +.*run_s=10m", one, re.M) and re.search(r"^name +string +required", one, re.M)
    assert command.json("types", "greet")["name"] == "greet"
    unknown = command.run("types", "gret")
    assert unknown.returncode == 4 and "greet" in unknown.stderr


@pytest.mark.row("G6")
def test_ps_is_an_overview_with_what_is_at_work_first(server: Server, command: Command) -> None:
    (pool,) = server.announcement["pools"]
    running = [start_detached(command, "tick") for _ in range(pool["workers_max"])]
    queued = [command.ok("submit", "tick", "-d").strip() for _ in range(3)]
    done = command.run("ps")
    said, _, ended = done.stderr.partition("; ")
    assert said == f"{len(running) + 3} jobs: {len(running)} running, 3 queued"
    assert re.fullmatch(r"\d+ ended in the last minute\n", ended)
    rows = [line.split()[:4] for line in done.stdout.splitlines()[2:]]
    assert {row[0] for row in rows[: len(running)]} == {id[:12] for id in running}
    assert rows[len(running) :] == [[id[:12], "tick", "queued", f"#{n}"] for n, id in enumerate(queued, 1)]


@pytest.mark.own_server
def test_metrics_as_a_table_as_json_and_as_prometheus_reads_them(command: Command) -> None:
    command.ok("submit", "add", "-i", "a=1")
    assert re.search(r"^jobs_completed +1$", command.ok("metrics"), re.M)
    assert command.json("metrics")["jobs_completed"] == 1
    assert re.search(r"^killable_jobs_total\{.*\} 1", command.ok("metrics", "--text"), re.M)
    assert command.run("metrics", "--text", "--json").returncode == 2


# ── wait ──


def test_wait_says_how_each_job_ended_in_the_order_of_the_arguments(command: Command, gate: str) -> None:
    gated = command.ok("submit", "gated", "-i", f"gate={gate}", "-d").strip()
    added = command.ok("submit", "add", "-i", "a=1", "-d").strip()
    with command.start("wait", gated[:12], added, added[4:14]) as waiting:
        open_gate(gate)
        out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, err) == (0, "")
    assert out == f"{gated[:12]}  completed  -\n{added[:12]}  completed  -\n"


def test_wait_exits_with_the_code_of_the_first_job_that_did_not_complete(command: Command) -> None:
    added = command.ok("submit", "add", "-i", "a=1", "-d").strip()
    failed = command.ok("submit", "fails", "-d").strip()
    cancelled = start_detached(command, "tick")
    late = command.ok("submit", "tick", "-d", "--run-s", "100ms").strip()
    command.ok("kill", cancelled)
    done = command.run("wait", added, failed, cancelled)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{added[:12]}  completed  -", f"{failed[:12]}  failed  exception", f"{cancelled[:12]}  cancelled  cancelled",
    ]  # fmt: skip
    document = command.run("wait", cancelled, failed, "--json")
    assert document.returncode == 3
    assert json.loads(document.stdout)["jobs"] == [
        {"job_id": cancelled, "state": "cancelled", "code": "cancelled"},
        {"job_id": failed, "state": "failed", "code": "exception"},
    ]
    done = command.run("wait", late)
    assert (done.returncode, done.stdout) == (124, f"{late[:12]}  timed_out  timeout.run\n")


def test_a_wait_with_a_timeout_leaves_the_jobs_running(command: Command) -> None:
    ticking, failed = start_detached(command, "tick"), command.ok("submit", "fails", "-d").strip()
    command.run("result", failed, "--wait", "30s")
    done = command.run("wait", failed, ticking, "--timeout", "100ms")
    assert (done.returncode, done.stderr) == (75, "1 job has not ended and continues\n")
    assert done.stdout == f"{failed[:12]}  failed  exception\n{ticking[:12]}  running  -\n"
    document = command.run("wait", ticking, "--timeout", "0", "--json")
    assert (document.returncode, document.stderr) == (75, "")
    assert json.loads(document.stdout) == {"jobs": [{"job_id": ticking, "state": "running", "code": None}]}
    assert command.json("inspect", ticking)["state"] == "running"


def test_ctrl_c_ends_a_wait_and_not_its_jobs(command: Command) -> None:
    ended = command.ok("submit", "add", "-i", "a=1", "-d").strip()
    ticking = start_detached(command, "tick")
    with command.start("wait", ended, ticking) as waiting:
        assert read_line(waiting) == f"{ended[:12]}  completed  -\n"
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=60) == ("", "")
    assert waiting.returncode == 130
    assert command.json("inspect", ticking)["state"] == "running"


def test_a_worker_that_is_gone_is_no_job(command: Command) -> None:
    done = command.run("inspect", "w-7777")
    assert done.returncode == 4 and "there is no worker process w-7777" in done.stderr
    assert "killable workers lists the workers" in done.stderr


def test_wait_refuses_an_unknown_job_before_it_waits(command: Command) -> None:
    ticking = start_detached(command, "tick")
    for unknown in ("ffff", "job-00000000-0000-4000-8000-000000000000"):
        done = command.run("wait", ticking, unknown)
        assert (done.returncode, done.stdout) == (4, "") and "unknown_job" in done.stderr, done
    assert command.run("wait").returncode == 2
    assert command.run("wait", ticking, "--timeout", "soon").returncode == 2


# ── drain, shutdown ──


def test_drain_refuses_new_jobs_until_it_is_off(command: Command) -> None:
    job_id = start_detached(command, "tick")
    assert command.ok("drain") == "draining: new jobs are refused; 1 running left\n"
    refused = command.run("submit", "add", "-i", "a=1")
    assert (refused.returncode, refused.stdout) == (75, "")
    assert "draining" in refused.stderr and "drain --off" in refused.stderr
    assert command.json("drain")["draining"] is True
    assert command.ok("drain", "--off") == "not draining: new jobs are accepted; 1 running\n"
    assert command.ok("submit", "add", "-i", "a=1") == "3\n"
    command.ok("kill", job_id)
    assert command.run("drain", "--off", "--deadline", "1s").returncode == 2
    assert command.run("drain", "gpu-1").returncode == 4, "this server has no nodes"


def test_a_drain_with_a_deadline_cancels_what_is_left(command: Command) -> None:
    with command.start("submit", "tick") as reader:
        assert read_line(reader) == "tick\n"
        assert "at most" in command.ok("drain", "--deadline", "100ms")
        _, err = reader.communicate(timeout=60)
    assert reader.returncode == 3
    assert "cancelled by shutdown" in err


@pytest.mark.own_server(program=COMMAND)
@pytest.mark.row("G8")
def test_shutdown_ends_jobs_then_the_server_and_says_so_when_it_is_gone(server: Server, command: Command) -> None:
    below = psutil.Process(server.process.pid).children(recursive=True)
    with command.start("submit", "tick") as reader:
        assert read_line(reader) == "tick\n"
        done = command.run("shutdown", "--reason", "new release")
        _, err = reader.communicate(timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        rf"{re.escape(server.url)}, pid {server.process.pid}, is down after .* \(asked over HTTP\)\n", done.stdout
    )
    assert "accepts no more jobs; 1 running left" in done.stderr
    server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    assert not [process for process in below if lives(process)]
    assert reader.returncode == 3
    assert "cancelled by shutdown" in err
    again = command.run("shutdown")
    assert (again.returncode, "connection refused" in again.stderr) == (69, True)


@pytest.mark.row("G9")
def test_it_is_told_why_a_worker_was_not_used_again_and_why_a_pool_does_not_fork(folder: Path, serve: Serve) -> None:
    (folder / "threads.py").write_text(
        textwrap.dedent("""
        import threading
        from killable import job, preload

        @preload
        def engine() -> None:
            threading.Thread(target=threading.Event().wait, daemon=True).start()

        @job
        def leave_a_thread() -> int:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            return 1
        """)
    )
    (folder / "killable.toml").write_text(
        '[server]\nport = 0\n[pools.mine]\nmodule = "threads.py"\njobs_per_worker_max = 0\n'
    )
    server = serve(constants=NO_STALLS)
    command = Command(folder, server.url)
    assert command.json("workers")["retired"] == [] and "not reused" not in command.ok("workers")
    assert command.ok("submit", "leave_a_thread").strip() == "1"
    job_id = command.json("ps", "--all")["jobs"][0]["job_id"]
    (retired,) = command.json("workers")["retired"]
    assert (retired["job_id"], retired["pool"], retired["why"]) == (job_id, "mine", "1 thread(s) more than before")
    title, head, _, row = command.ok("workers").splitlines()[-4:]
    assert title == "not reused" and head.split() == ["WORKER", "POOL", "JOB", "AGO", "WHY"]
    assert row.split()[:3] == [retired["worker_id"], "mine", job_id[:12]] and row.endswith(retired["why"])
    checks = {check["name"]: check for check in command.json("doctor", "--url", server.url)["checks"]}
    assert checks["server"]["status"] == "ok" and checks["pool mine"]["status"] == "warn"
    assert "2 threads" in checks["pool mine"]["found"] and "start_method" in checks["pool mine"]["advice"]


# ── doctor, completion ──


@pytest.mark.row("G7")
def test_doctor_submits_streams_and_cancels_a_probe_job(server: Server, command: Command) -> None:
    checks = {check["name"]: check for check in command.json("doctor", "--url", server.url)["checks"]}
    for name in ("start", "submit → first token", "cancel → dead", "proof"):
        assert checks[f"self-check: {name}"]["status"] in ("ok", "warn")
    assert "SIGTERM acknowledged" in checks["self-check: cancel → dead"]["found"]
    assert checks["death signal"]["status"] == "ok"
    assert checks["server"] == {"name": "server", "status": "ok", "found": f"{server.url} is ready", "advice": ""}
    nowhere = command.run("doctor", "--url", "http://127.0.0.1:1")
    assert nowhere.returncode == 1
    assert "connection refused" in nowhere.stdout and "`killable serve` can run here" in nowhere.stderr


def completed(command: Command, *words: str, **env: str) -> list[str]:
    """What bash would offer for the last word."""
    line = " ".join(("killable", *words))
    asked = {"_KILLABLE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KILLABLE_")}
    environment |= {"KILLABLE_URL": command.url} | asked | env
    installed = Path(sys.executable).parent / "killable"  # the variable has its name
    done = subprocess.run([installed], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    # Before the comma: how the shell is to treat a word. What completes nothing is an empty line.
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_jobs_types_and_states_from_the_server(command: Command) -> None:
    job_id = start_detached(command, "tick")
    (busy,) = [worker for worker in workers(command) if worker["state"] == "busy"]

    def until_found(word: str, *words: str) -> list[str]:
        """Ask again: a server that does not answer within half a second completes nothing."""
        return until(lambda: word in (found := completed(command, *words)) and found, f"{word} is completed")

    assert until_found("greet", "submit", "gre") == ["greet"]
    until_found(job_id[:12], "kill", "job-")
    until_found(busy["worker_id"], "kill", "w-")
    assert until_found(job_id[:12], "explain", job_id[:8]) == [job_id[:12]]
    assert completed(command, "ps", "--state", "q") == ["queued"]
    assert completed(command, "submit", "gre", KILLABLE_URL="http://127.0.0.1:1") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed_where_the_shell_reads_it(tmp_path: Path, shell: str) -> None:
    command, home = Command(tmp_path), {"HOME": str(tmp_path)}
    shown = command.run("--show-completion", shell, env=home)
    assert shown.returncode == 0 and f"_KILLABLE_COMPLETE={shell}_complete" in shown.stdout
    for _ in range(2):
        done = command.run("--install-completion", shell, env=home)
        assert done.returncode == 0, done.stderr
    script = Path(done.stdout.partition(" installed in ")[2].splitlines()[0])
    assert script.read_text() == shown.stdout.rstrip("\n") + "\n" and script.is_relative_to(tmp_path)
    starts = {"bash": ".bashrc", "zsh": ".zshrc"}
    if shell in starts:
        (line,) = (tmp_path / starts[shell]).read_text().splitlines()
        assert str(script if shell == "bash" else "~/.zfunc") in line


def test_completion_does_not_wait_for_a_server_that_does_not_answer(server: Server, command: Command) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        assert completed(command, "submit", "gre") == []
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def test_a_verb_says_that_it_waits_for_a_server_that_stands_still(server: Server, folder: Path) -> None:
    impatient = Command(folder, server.url, constants={"killable.api.cli.parameters.command_client": {"SAY_S": 0.1}})
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with impatient.start("workers", "--json") as waiting:
            assert waiting.stderr is not None
            assert waiting.stderr.readline() == f"{server.url} has not answered for 0.1 s; still waiting\n"
            os.kill(server.process.pid, signal.SIGCONT)
            assert waiting.wait(60) == 0
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@pytest.mark.row("G10")
def test_every_verb_that_asks_has_json(command: Command) -> None:
    job_id = command.ok("submit", "add", "-i", "a=1", "-d").strip()
    command.ok("result", job_id, "--wait", "30s")
    for args in (
        ("ps", "-a"),
        ("workers",),
        ("tenants",),
        ("nodes",),
        ("types",),
        ("inspect", job_id),
        ("explain", job_id),
        ("wait", job_id),
        ("drain", "--off"),
    ):
        assert isinstance(command.json(*args), dict), args
    assert command.json("kill", "--all") == {"killed": []}
    for args in (
        ("workers",),
        ("types",),
        ("explain", "ffff"),
        ("logs", "ffff"),
        ("wait", "ffff"),
        ("drain",),
        ("shutdown",),
        ("bench",),
    ):
        done = command.run(*args, "--json", "--url", "http://127.0.0.1:1")
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (69, "unreachable"), args
        assert done.stderr == ""
