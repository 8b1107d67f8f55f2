"""The real `killable serve`: who may reach it, what it passes on, and how it ends.

Whatever a test waits for comes through a pipe.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support import user_jobs
from support.certificate_checks import was_killed
from support.killable_command import COMMAND, Command, Server, client_of, open_gate, read_line
from support.waiting import Pending, until

from killable.api.client.client import Client
from killable.supervisor.telemetry.log_vocabulary import EVENTS

JOBS = '''
import os
import signal
import socket
import time
from collections.abc import Iterator

from killable import job


def idle() -> None:
    while True:
        time.sleep(0.01)


def wait_for(gate: str) -> None:
    """Block until someone opens the pipe for writing."""
    open(gate, "rb").close()


@job(grace_s=60)
def tick(gate: str) -> Iterator[str]:
    """Tick for ever; clean up when stopped, through the gate."""
    try:
        yield "tick"
        idle()
    finally:
        wait_for(gate)
        print("cleaned up")


@job(grace_s=60, ack_s=60)
def deaf() -> Iterator[str]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield "tick"
    idle()


@job
def gated(gate: str) -> Iterator[str]:
    yield "tick"
    wait_for(gate)
    return "through"


@job
def environment() -> dict[str, str]:
    return dict(os.environ)
'''
KEY = "0123456789abcdef-operate"
SUBMIT_KEY = "fedcba9876543210-submit"

Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers of JOBS on a free port; none outlives the test."""
    (tmp_path / "my_jobs.py").write_text(JOBS)
    started: list[Server] = []

    def start(*args: str, program: Sequence[str] = (), **options: Any) -> Server:
        started.append(Server(Command(tmp_path, program=program), "my_jobs.py", *args, **options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


class Stream:
    """A job that has begun, seen through its stream."""

    def __init__(self, client: httpx.Client, type: str, **input: Any) -> None:
        answer = client.post("/v1/jobs", json={"type": type, "input": input})
        assert answer.status_code == 202, answer.text
        self.id: str = answer.json()["job_id"]
        self._context = client.stream("GET", answer.json()["stream_url"])
        self._lines = self._context.__enter__().iter_lines()
        assert self.next_event("token")["text"] == "tick"

    def next_event(self, *names: str) -> dict[str, Any]:
        """Return the data of the next event of that name."""
        for line in self._lines:
            if line.removeprefix("event: ") in names:
                found: dict[str, Any] = json.loads(next(self._lines).removeprefix("data: "))
                return found
        raise AssertionError(f"the stream ended without {names}")

    def end(self) -> dict[str, Any]:
        found = self.next_event("completed", "failed", "cancelled", "timed_out")
        self._context.__exit__(None, None, None)
        return found


def wait_until_said(server: Server, words: str) -> None:
    assert server.process.stderr is not None
    for line in server.process.stderr:
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}")


def ended(server: Server, below: list[psutil.Process]) -> tuple[int, list[psutil.Process]]:
    """Wait for the server's own end; return its exit code and what is left of what was below it."""
    server.process.communicate(timeout=60)
    return server.process.returncode, [process for process in below if process.is_running()]


def everything_below(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def is_refused(client: httpx.Client) -> bool:
    answer = client.post("/v1/jobs", json={"type": "environment"})
    return (answer.status_code, answer.json()["code"]) == (503, "draining") and "retry-after" in answer.headers


# ── how it ends ──


@pytest.mark.row("A17")
@pytest.mark.row("G8")
def test_shutdown_refuses_new_jobs_lets_running_ones_clean_up_and_exits_0_with_nothing_left(
    serve: Serve, gate: str
) -> None:
    server = serve("--port", "0")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "tick", gate=gate)
        below = everything_below(server)
        answer = client.post("/v1/shutdown", params={"reason": "release"})
        assert (answer.status_code, answer.json()["shutting_down"], answer.json()["running"]) == (202, True, 1)
        assert is_refused(client)
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        assert client.get(f"/v1/jobs/{job.id}").json()["state"] == "stopping"
        open_gate(gate)
        assert job.next_event("log")["text"] == "cleaned up"
        end = job.end()
        assert (end["state"], end["certificate"]["by"]) == ("cancelled", "shutdown")
        assert not was_killed(end["certificate"])
    assert len(below) >= 3  # a guard, a zygote, a worker
    assert ended(server, below) == (0, [])


@pytest.mark.row("A17")
def test_shutdown_kills_what_ignores_sigterm_when_the_grace_is_over(serve: Serve) -> None:
    server = serve("--port", "0")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "deaf")
        below = everything_below(server)
        assert client.post("/v1/shutdown", params={"grace_s": 0.1}).status_code == 202
        end = job.end()
        assert (end["state"], end["certificate"]["exit_signal"]) == ("cancelled", "SIGKILL")
    assert ended(server, below) == (0, [])


@pytest.mark.row("A17")
def test_shutdown_with_a_deadline_lets_a_job_end_by_itself(serve: Serve, gate: str) -> None:
    server = serve("--port", "0")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "gated", gate=gate)
        below = everything_below(server)
        left = client.post("/v1/shutdown", params={"deadline_s": 60}).json()
        assert 0 < left["deadline_s"] <= 60
        assert is_refused(client)
        open_gate(gate)
        assert (job.end()["state"], ended(server, below)) == ("completed", (0, []))


@pytest.mark.parametrize(("number", "program"), [(signal.SIGINT, COMMAND), (signal.SIGTERM, ())], ids=["2", "15"])
def test_a_signal_does_the_same_and_http_answers_until_the_last_job_has_ended(
    serve: Serve, gate: str, number: signal.Signals, program: Sequence[str]
) -> None:
    server = serve("--port", "0", program=program)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "tick", gate=gate)
        below = everything_below(server)
        server.process.send_signal(number)
        wait_until_said(server, "1 job is cancelled with its grace; Ctrl-C again kills it")
        with httpx.Client(base_url=server.url, timeout=60) as newcomer:
            assert is_refused(newcomer)
        open_gate(gate)
        end = job.end()
        assert (end["state"], end["certificate"]["by"]) == ("cancelled", "shutdown")
    assert ended(server, below) == (0, [])


def test_a_second_signal_kills(serve: Serve) -> None:
    server = serve("--port", "0")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "deaf")
        below = everything_below(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until_said(server, "1 job is cancelled with its grace")
        server.process.send_signal(signal.SIGTERM)
        assert job.end()["certificate"]["exit_signal"] == "SIGKILL"
    assert ended(server, below) == (0, [])


def test_a_signal_after_a_shutdown_is_the_second_word(serve: Serve) -> None:
    server = serve("--port", "0")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "deaf")
        below = everything_below(server)
        client.post("/v1/shutdown")
        wait_until_said(server, "1 job is cancelled with its grace")
        server.process.send_signal(signal.SIGINT)
        assert job.end()["certificate"]["exit_signal"] == "SIGKILL"
    assert ended(server, below) == (0, [])


def test_drain_s_is_what_a_signal_leaves_the_jobs(serve: Serve, gate: str) -> None:
    server = serve("--port", "0", env={"KILLABLE_SERVER__DRAIN_S": "1h"})
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "gated", gate=gate)
        below = everything_below(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until_said(server, "1 job may finish within 1h; Ctrl-C again kills at once")
        assert is_refused(client)
        open_gate(gate)
        assert (job.end()["state"], ended(server, below)) == ("completed", (0, []))


def test_a_second_signal_ends_the_drain(serve: Serve) -> None:
    server = serve("--port", "0", env={"KILLABLE_SERVER__DRAIN_S": "1h"})
    with httpx.Client(base_url=server.url, timeout=60) as client:
        job = Stream(client, "deaf")
        below = everything_below(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until_said(server, "1 job may finish within 1h")
        server.process.send_signal(signal.SIGTERM)
        assert job.end()["certificate"]["exit_signal"] == "SIGKILL"
    assert ended(server, below) == (0, [])


# ── who may reach it ──


@pytest.mark.row("A25")
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_beyond_this_machine_is_refused_without_a_key(tmp_path: Path, host: str) -> None:
    done = Command(tmp_path).run("serve", "--port", "0", "--host", host)
    assert (done.returncode, done.stdout) == (78, "")
    assert "KILLABLE_API_KEY" in done.stderr and "stay on 127.0.0.1" in done.stderr and "(--host)" in done.stderr


@pytest.mark.row("A25")
def test_with_keys_every_caller_needs_one_and_the_announcement_names_them(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# who\nci submit {SUBMIT_KEY}\n")
    (tmp_path / "keys").chmod(0o600)
    (tmp_path / "killable.toml").write_text("[server]\napi_keys_file = 'keys'\nhost = '0.0.0.0'\n")
    server = serve("--port", "0", env={"KILLABLE_API_KEY": KEY})
    assert server.announcement["keys"] == [{"name": "ci", "role": "submit"}, {"name": "default", "role": "operate"}]
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    job = {"type": "environment", "input": {}}
    statuses = {}
    for name, key in (("none", ""), ("wrong", "x" * 24), ("submit", SUBMIT_KEY), ("operate", KEY)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            answers = [client.post("/v1/jobs", json=job, headers={"Prefer": "wait=30"}), client.post("/v1/drain")]
            statuses[name] = [answer.status_code for answer in answers]
            if name == "submit":
                # No job inherits what its server was started with.
                seen = answers[0].json()["result"]
                assert "KILLABLE_API_KEY" not in seen and not {KEY, SUBMIT_KEY} & set(seen.values())
            assert client.get("/livez").status_code == 200
    assert statuses == {"none": [401, 401], "wrong": [401, 401], "submit": [200, 403], "operate": [200, 202]}
    code, left, said = server.stop()
    assert (code, left) == (0, [])
    assert KEY not in said + json.dumps(server.announcement) and SUBMIT_KEY not in said


def test_the_announcement_for_people(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    for program, args, env, words in (
        (
            COMMAND,
            (),
            {},
            ("no key: anyone who can connect to 127.0.0.1", "ends every job with its grace", "a second Ctrl-C kills"),
        ),
        (
            (),
            ("--host", "0.0.0.0"),
            {"KILLABLE_API_KEY": KEY, "KILLABLE_SERVER__DRAIN_S": "30s"},
            ("default (operate)", "plain HTTP", "TLS", "server.allowed_hosts", "lets the others finish for 30 s"),
        ),
    ):
        command = Command(tmp_path, program=program)
        with command.start("serve", "my_jobs.py", "--port", "0", *args, env=env) as process:
            assert process.stderr is not None
            said = ""
            while "Ctrl-C" not in said:
                said += process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert all(word in said for word in words), said
        assert KEY not in said


NOISY = """
import os, warnings
print("printed while it is imported")
os.write(2, b"half a line")
os.write(2, b" and the rest\\n")
warnings.warn("an old name")
"""
"""A module that does what models do while they are loaded."""


def test_every_line_of_a_log_in_json_is_json(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(NOISY + JOBS)
    command = Command(tmp_path)
    with command.start("serve", "my_jobs.py", "--port", "0", "--log-format", "json") as process:
        assert process.stderr is not None
        records = [json.loads(process.stderr.readline())]
        while records[-1]["event"] != "serving":
            records.append(json.loads(process.stderr.readline()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        records += map(json.loads, process.stderr.read().splitlines())
    (serving,) = [record for record in records if record["event"] == "serving"]
    assert serving["pid"] == process.pid and serving["url"].startswith("http://127.0.0.1:")
    assert [pool["state"] for pool in serving["pools"]] == ["ready"]
    stray = [record["detail"] for record in records if record["event"] == "stderr"]
    assert {"printed while it is imported", "half a line and the rest"} <= set(stray)
    assert any("UserWarning: an old name" in line for line in stray)
    assert all(record["event"] in EVENTS for record in records)


UPGRADE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("request_", [b"nonsense\r\n\r\n", UPGRADE], ids=["no HTTP", "websocket"])
def test_one_request_that_is_wrong_costs_no_line_of_the_log(request_: bytes, tmp_path: Path) -> None:
    """Anyone could fill a disk with them. Their clients are told."""
    (tmp_path / "my_jobs.py").write_text(JOBS)
    server = Server(Command(tmp_path), "my_jobs.py", "--port", "0")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            connection.sendall(request_)
            assert connection.recv(100).startswith(b"HTTP/1.1 ")
    log = server.stop()[2]
    assert "HTTP" not in log and "WebSocket" not in log and "upgrade" not in log, log


@pytest.mark.parametrize("where", ["flag", "variable", "file", "file that is no TOML"])
def test_an_error_before_a_start_is_json_in_a_log_in_json(where: str, tmp_path: Path) -> None:
    fault = "[server]\nport = 'here'\n" + ("= no TOML\n" if where == "file that is no TOML" else "")
    (tmp_path / "killable.toml").write_text(fault + ("log_format = 'json'\n" if "file" in where else ""))
    flags = ["--log-format", "json"] if where == "flag" else []
    variables = {"KILLABLE_SERVER__LOG_FORMAT": "json"} if where == "variable" else {}
    told = Command(tmp_path).run("serve", *flags, env=variables)
    (record,) = map(json.loads, told.stderr.splitlines())
    assert (told.returncode, record["event"], record["level"]) == (78, "not_started", "error")
    assert record["code"] == "configuration" and "killable.toml" in record["error"]


# ── what it is told ──


@pytest.mark.row("G11")
def test_the_log_is_as_it_was_asked_for(serve: Serve) -> None:
    server = serve("--port", "0", "--log-format", "json", "--log-level", "info", program=COMMAND)
    httpx.post(f"{server.url}/v1/jobs", json={"type": "environment"}, headers={"Prefer": "wait=30"}, timeout=60)
    code, _, said = server.stop()
    records = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert code == 0 and records and all({"time", "level", "logger", "event"} <= set(record) for record in records)
    server = serve("--port", "0", "--log-level", "error")
    httpx.post(f"{server.url}/v1/jobs", json={"type": "environment"}, headers={"Prefer": "wait=30"}, timeout=60)
    assert server.stop() == (0, [], "")


@pytest.mark.row("G11")
def test_what_cannot_be_is_one_clear_line_each(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    command = Command(tmp_path)
    for args, code, words in (
        (("--ray", "auto"), 78, "expected a Ray cluster with token authentication (RAY_AUTH_MODE=token)"),
        (("--host", "no-such-host.invalid"), 78, "expected an address of this machine"),
        (("--uds", "no/socket"), 71, "there is no directory"),
        (("--uds", "x" * 200), 71, "at most 107 bytes"),
        (("--log-level", "loud"), 78, 'expected "debug", "info", "warning" or "error"; found "loud" (--log-level)'),
        (("--port", "1", "--uds", "socket"), 78, "expected a Unix socket, or host and port, not both"),
    ):
        env = {"KILLABLE_API_KEY": KEY}
        done = command.run("serve", "my_jobs.py", *args, env=env)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr and len(done.stderr.splitlines()) <= 2, done.stderr


def test_a_log_that_another_program_made_non_blocking_loses_no_record(tmp_path: Path) -> None:
    """`serve` beside a program that sets O_NONBLOCK on the stderr of both, and a reader who is slow."""
    (tmp_path / "my_jobs.py").write_text(JOBS)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    command = Command(tmp_path)
    arguments = ("serve", "my_jobs.py", "--port", "0", "--json", "--log-format", "json")
    with os.fdopen(reading) as lines, command.start(*arguments, stderr=writing) as process, ExitStack() as at_end:
        at_end.callback(process.kill)
        url = json.loads(read_line(process))["url"]
        os.set_blocking(writing, False)
        os.close(writing)
        with client_of(url) as client:
            jobs = [client.submit("environment") for _ in range(30)]
            assert all(job.result(60) for job in jobs)
        completed = set()
        while completed != {job.id for job in jobs}:
            record = json.loads(lines.readline())
            assert record["event"] != "records_dropped", record
            if record["event"] == "completed":
                completed.add(record["job_id"])
        process.send_signal(signal.SIGTERM)
        lines.read()
        assert process.wait(60) == 0


@pytest.mark.row("D3")
def test_a_terminal_that_has_gone_costs_no_job_its_grace(tmp_path: Path) -> None:
    """`serve 2>&1 | tee log`, and Ctrl-C: tee is gone before the server says its last words."""
    (tmp_path / "my_jobs.py").write_text(JOBS)
    os.mkfifo(tmp_path / "gate")
    server = Server(Command(tmp_path, program=COMMAND), "my_jobs.py", "--port", "0")
    tick = {"type": "tick", "input": {"gate": str(tmp_path / "gate")}}
    answer = httpx.post(f"{server.url}/v1/jobs", json=tick, timeout=60)
    job_id = answer.json()["job_id"]
    with httpx.stream("GET", f"{server.url}/v1/jobs/{job_id}/stream", timeout=60) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if line == "event: token")  # and not one that has only the name of the job type
        assert server.process.stderr is not None
        server.process.stderr.close()
        server.process.send_signal(signal.SIGINT)
        (tmp_path / "gate").write_bytes(b"")  # opens when the clean-up waits there
        rest = "\n".join(lines)
    assert "cleaned up" in rest and "event: cancelled" in rest
    assert server.process.wait(60) == 0
    assert server.process.stdout is not None
    server.process.stdout.close()


def test_a_module_without_a_job_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("def forgotten() -> None: ...\n")
    for verb in ("serve", "check"):
        done = Command(tmp_path).run(verb, "empty.py")
        assert done.returncode == 78, (verb, done.stdout, done.stderr)
        said = done.stdout + done.stderr
        assert "@job" in said and "empty.py" in said and "Traceback" not in said, said


def test_a_fault_of_a_module_is_one_clear_text(tmp_path: Path) -> None:
    (tmp_path / "asy.py").write_text("from killable import job\n\n@job\nasync def a() -> None: ...\n")
    done = Command(tmp_path).run("serve", "asy.py")
    assert done.returncode == 78 and "async def is not supported" in done.stderr
    assert "\\n" not in done.stderr, done.stderr


WITH_HEAP_TOLD = """
import atexit, gc, sys
from killable.api.cli import main
atexit.register(lambda: print("heap", gc.isenabled(), gc.get_freeze_count(), len(gc.get_objects()), file=sys.stderr))
main()
"""


def test_the_collector_of_a_server_has_little_to_look_at(serve: Serve) -> None:
    """A full pass over all that it has imported would hold up every deadline and every cancel for its time."""
    server = serve("--port", "0", program=[sys.executable, "-c", WITH_HEAP_TOLD])
    with Client(server.url) as client:
        for _ in range(10):
            client.run("environment")
    code, left, said = server.stop()
    assert (code, left) == (0, []), said
    works, spared, looked_at = said.rpartition("heap ")[2].split()
    assert works == "True" and int(looked_at) < int(spared) / 4, said


# ── descriptors ──


def test_connections_are_fitted_to_the_open_files_and_many_of_them_are_few_lines(serve: Serve) -> None:
    server = serve("--port", "0", program=("sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', *COMMAND))
    address = ("127.0.0.1", httpx.URL(server.url).port or 0)
    with ExitStack() as held, httpx.Client(base_url=server.url) as client:
        for _ in range(600):
            held.enter_context(socket.create_connection(address))
        assert not [text for text in client.get("/readyz").json()["degraded"] if "accepted" in text]
        assert Stream(client, "deaf").id
        client.post("/v1/jobs/cancel", json={"state": "active", "grace_s": 0})
    code, left, said = server.stop()
    assert (code, left) == (0, [])
    assert "connections_max_lowered" in said and "open_files_max=256" in said
    assert len(said.splitlines()) < 20 and "Traceback" not in said


def test_a_machine_without_descriptors_for_a_worker_is_no_fault_of_the_configuration(folder: Path) -> None:
    program = ("sh", "-c", 'ulimit -n 14 && exec "$0" "$@"', *COMMAND)
    done = Command(folder, program=program).run("serve", "my_jobs.py", "--port", "0")
    assert done.returncode == 71, done.stderr
    assert "no pool can start a job" in done.stderr and "Too many open files" in done.stderr


@pytest.mark.parametrize(
    ("args", "full", "other"), [((), "stderr", "stdout"), (("--json",), "stdout", "stderr")], ids=["people", "json"]
)
def test_a_stream_on_a_full_disk_is_said_on_the_other_one(
    args: tuple[str, ...], full: str, other: str, tmp_path: Path
) -> None:
    shutil.copy(user_jobs.__file__, tmp_path / "my_jobs.py")
    with open("/dev/full", "w") as nowhere:
        streams = {full: nowhere, other: subprocess.PIPE}
        command = [*COMMAND, "serve", "my_jobs.py", "--port", "0", *args]
        done = subprocess.run(command, cwd=tmp_path, text=True, timeout=60, **streams)
    said = done.stdout if other == "stdout" else done.stderr
    assert done.returncode == 71 and "No space left on device" in said and "Traceback" not in said


def test_jobs_do_not_get_the_secrets_of_the_server(tmp_path: Path) -> None:
    jobs = "import os\nfrom killable import job\n\n@job\ndef sees() -> list[str]:\n    return sorted(os.environ)\n"
    (tmp_path / "my_jobs.py").write_text(jobs)
    pool = '[pools.main]\nmodule = "./my_jobs.py"\nenvironment = ["*", "HF_TOKEN"]\nenv = { OWN_KEY = "3" }\n'
    (tmp_path / "killable.toml").write_text(f"[server]\nport = 0\n{pool}")
    environment = {"PAYMENT_SECRET": "1", "HF_TOKEN": "2", "HARMLESS": "4"}
    server = Server(Command(tmp_path), env=environment)
    try:
        with Client(server.url) as client:
            seen = set(client.run("sees", {}))
    finally:
        server.stop()
    assert {"HF_TOKEN", "OWN_KEY", "HARMLESS", "PATH"} <= seen and "PAYMENT_SECRET" not in seen


ADOPTS = """
import ctypes, os, sys
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)  # a stranger, whose parent does not wait for it
    os._exit(0)
os.wait()
os.execv(sys.executable, [sys.executable, "-c", "from killable.supervisor.linux import adopted_zombies;"
         "adopted_zombies.REAP_S = 0.05; from killable.api.cli import main; main()", *sys.argv[1:]])
"""


def test_a_server_that_adopts_orphans_reaps_them(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text("from killable import job\n\n@job\ndef works() -> None: ...\n")
    server = Server(Command(tmp_path, program=(sys.executable, "-c", ADOPTS)), "my_jobs.py", "--port", "0")

    def only_guards() -> bool | Pending:
        states = [child.status() for child in psutil.Process(server.process.pid).children()]
        return psutil.STATUS_ZOMBIE not in states or Pending(states)

    try:
        until(only_guards, "strangers are reaped")
        with Client(server.url) as client:
            client.run("works", {})
    finally:
        assert server.stop()[:2] == (0, [])
