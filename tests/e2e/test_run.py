"""`killable run`: a command with limits, without a server, held against timeout(1) and a shell."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cgroup_v1
from support.killable_command import COMMAND
from support.processes import descendants, has_ended, is_in_state, read_process
from support.waiting import Pending, until

PYTHON = sys.executable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*args: str, **options: Any) -> subprocess.Popen[str]:
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    given = {"preexec_fn": _as_in_a_shell, **streams, **options}
    return subprocess.Popen([*COMMAND, "run", *args], text=True, **given)


def _as_in_a_shell() -> None:
    """What runs the tests may have been started with signals ignored, in the background or by nohup(1)."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "run", *args], text=True, capture_output=True, timeout=120, **options)


def ended(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what `--json` has told, in the last line."""
    found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return found


def pid_in(path: Path) -> int:
    """Return a pid that a command writes there, with a line end behind it."""

    def written() -> int | Pending:
        text = path.read_text() if path.exists() else ""
        return int(text) if text.endswith("\n") else Pending(text)

    return int(until(written, f"{path.name} has a pid"))


# ── as without it ──


def test_it_is_as_if_the_command_ran_alone(folder: Path) -> None:
    done = run("--", "sh", "-c", 'cat; echo "$0 $1" >&2; pwd; exit 7', "zero", "-x", input="from stdin\n")
    assert (done.stdout, done.stderr, done.returncode) == (f"from stdin\n{folder}\n", "zero -x\n", 7)
    assert run("echo", "--json", "-h").stdout == "--json -h\n"  # options behind the command are its own


def test_descriptors_environment_and_ignored_signals_are_passed_on(folder: Path) -> None:
    readable, writable = os.pipe()
    program = (
        f"import os, signal; os.write({writable}, os.environb[b'MINE'])\n"
        "print(*map(repr, map(signal.getsignal, (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM))),"
        " sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), sep='\\n')"
    )
    with start(
        "--", PYTHON, "-c", program, pass_fds=[writable], env=os.environ | {"MINE": "x"},
        preexec_fn=lambda: _before(),
    ) as process:  # fmt: skip
        os.close(writable)
        said = process.stdout.read() if process.stdout else ""
    assert os.read(readable, 16) == b"x"
    os.close(readable)
    hang_up, user, term, mask = said.splitlines()
    assert "SIG_IGN" in hang_up  # as nohup(1) sets it
    assert "SIG_DFL" in user and "SIG_DFL" in term
    assert "SIGUSR2" in mask and "SIGTERM" not in mask


def _before() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


def test_a_writer_whose_reader_has_gone_dies_of_it(folder: Path) -> None:
    """Python ignores SIGPIPE, and an exec would keep that: yes(1) would complain."""
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -1', "sh", *COMMAND, "run", "--", "yes"], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("y\n", "")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGUSR1, 37])
def test_it_ends_by_the_signal_that_has_ended_the_command(folder: Path, number: int) -> None:
    done = run("--", "sh", "-c", f"kill -{int(number)} $$")
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
    done = run("--json", "--", "sh", "-c", f"kill -{int(number)} $$")
    assert (done.returncode, ended(done)["signal"]) == (-number, ended(done)["certificate"]["exit_signal"])


def test_what_cannot_be_run_is_said_with_the_exit_code_of_a_shell(folder: Path) -> None:
    (folder / "not-executable").write_text("#!/bin/sh\n")
    (folder / "no-interpreter").write_text("#!/no/such/program\n")
    (folder / "no-interpreter").chmod(0o755)
    (folder / "no-format").write_text("echo $1\n")
    (folder / "no-format").chmod(0o755)
    done = run("--", "no-such-program")
    assert (done.returncode, done.stderr) == (127, "killable: 'no-such-program' is not found on PATH\n")
    done = run("60", "sleep", "1")
    assert (done.returncode, done.stderr) == (
        127,
        "killable: '60' is not found on PATH; as a time limit it is --run-s 60\n",
    )
    done = run("")
    assert (done.returncode, done.stderr) == (127, "killable: '' is not found on PATH\n")
    done = run("--", "./no-interpreter")
    assert done.returncode == 127
    assert "is not there, or the interpreter that its first line names" in done.stderr
    done = run("--", "./not-executable")
    assert (done.returncode, done.stderr) == (
        126,
        "killable: './not-executable' cannot be executed: Permission denied\n",
    )
    not_utf8 = run("--", os.fsdecode(b"./\xff"))
    assert (not_utf8.returncode, not_utf8.stderr.startswith(r"killable: './\xff' is not there")) == (127, True)
    assert run("--", "./no-format", "as sh(1) does it").stdout == "as sh(1) does it\n"


def test_started_with_sigchld_ignored_it_has_the_exit_code(folder: Path) -> None:
    """As timeout(1) does: some programs ignore it, and what they start inherits that."""

    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    with start("--", "sh", "-c", "(exit 4); exit $(($? + 1))", preexec_fn=ignore) as process:
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 5


def test_a_usage_that_is_wrong_is_answered_with_an_example(folder: Path) -> None:
    for args, cause in (
        ((), "Missing argument"),
        (("-i", "in.mp4"), "No such option '-i'"),
        (("--run-s", "5"), "Missing"),
    ):
        done = run(*args)
        assert done.returncode == 2
        assert cause in done.stderr and "The command follows --, as in: killable run --run-s 60" in done.stderr
    assert "must be more than 0" in run("--run-s", "0", "--", "true").stderr  # as timeout(1) it would be no limit
    assert "cannot be none" in run("--grace-s", "none", "--", "true").stderr
    assert run("-k", "0.1", "--run-s", "0.1", "sh", "-c", "trap '' TERM; sleep 60").returncode == 124
    assert "'NONE' is no signal" in run("-s", "NONE", "--", "true").stderr
    done = run("--report", "", "--", "touch", "ran")
    assert done.returncode == 2 and "Invalid value for --report: expected the name of a file; got ''" in done.stderr
    assert not (folder / "ran").exists()
    done = run("--report", "no/such/folder", "--", "touch", "ran")
    assert done.returncode == 2 and "cannot be written" in done.stderr
    assert not (folder / "ran").exists()


def test_streams_that_are_closed_are_closed_for_the_command(folder: Path) -> None:
    """And no descriptor of `killable run` takes their numbers."""
    script = "for n in 0 1 2; do [ -e /proc/self/fd/$n ] || echo $n >> closed; done; exit 8"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = f'"$@" {closed}'
        done = subprocess.run(["sh", "-c", command, "sh", *COMMAND, "run", "--run-s", "60", "--", "sh", "-c", script])
        assert done.returncode == 8, closed
    assert (folder / "closed").read_text().split() == ["0", "1", "2", "0", "1", "2"]


def test_the_environment_is_what_it_was(folder: Path) -> None:
    """Without a locale Python sets one, for itself and what it starts (PEP 538)."""
    for given in ({}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "C", "MINE": "x"}):
        done = run("--", "/usr/bin/env", env=given)
        assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == given


@pytest.mark.parametrize("most", [1, 2], ids=["of the keeper", "of the command"])
def test_a_fork_that_the_kernel_refuses_is_a_typed_error_and_leaves_nothing(folder: Path, most: int) -> None:
    with cgroup_v1.group("pids", max=most) as group:
        joined = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"', *COMMAND]
        command = [*joined, "run", "--report", "report", "--run-s", "60"]
        done = subprocess.run([*command, "--json", "--", "touch", "ran"], capture_output=True, text=True, timeout=120)
        why = f"no process can be made: {os.strerror(errno.EAGAIN)}"
        assert (done.returncode, done.stdout, ended(done)["error"]) == (71, "", {"code": "spawn", "message": why})
        assert json.loads(Path("report").read_text()) == ended(done)
        done = subprocess.run([*command, "--", "touch", "ran"], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (71, f"killable: {why}\n")
        assert (group / "cgroup.procs").read_text() == "" and not Path("ran").exists()


def test_without_descriptors_it_says_so(folder: Path) -> None:
    for most in range(6, 24):
        words = [f'ulimit -n {most}; exec "$@"', "sh", *COMMAND, "run", "--", "true"]
        done = subprocess.run(["sh", "-c", *words], capture_output=True, text=True, timeout=60)
        if "killable: no process can be made: Too many open files" in done.stderr:
            assert done.returncode == 71
            return
    pytest.fail("there were enough descriptors, or Python did not start")


# ── limits ──


def test_at_its_time_limit_it_cleans_up_and_ends(folder: Path) -> None:
    script = "trap 'echo cleaned; exit 3' TERM; echo $$ > pid; while :; do sleep 0.01; done"
    done = run("--run-s", "0.3", "--json", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (124, "cleaned\n")
    end = ended(done)
    assert (end["state"], end["exit_code"], end["error"]["code"]) == ("timed_out", 3, "timeout.run")
    assert end["error"]["message"] == "run_s of 0.3 s was reached"
    certificate = end["certificate"]
    assert certificate["last_signal"] == "SIGTERM" and "kill_sent" not in certificate
    assert certificate["tree_empty"] >= certificate["exited"] and certificate["proof"].endswith("descendants")
    assert end["run_s"] >= 0.3


def test_what_ignores_the_signal_is_killed_behind_its_grace(folder: Path) -> None:
    done = run(
        "--run-s", "0.2", "--grace-s", "0.2", "--", "sh", "-c", "trap '' TERM INT; sleep 60 & sleep 60; sleep 60"
    )
    assert done.returncode == 124
    assert done.stderr.startswith("killable: timeout.run: run_s of 0.2 s was reached; SIGTERM, SIGKILL after ")
    assert "processes are gone after" in done.stderr


def test_without_a_grace_it_is_killed_at_once(folder: Path) -> None:
    end = ended(run("--run-s", "0.2", "--grace-s", "0", "--json", "--", "sleep", "60"))
    assert end["signal"] == "SIGKILL" and "term_sent" not in end["certificate"]


def test_another_signal_may_ask_it_to_end(folder: Path) -> None:
    for name in ("INT", "SIGINT", "2", "sigint"):
        done = run(
            "--run-s", "0.2", "-s", name, "--", "sh", "-c", "trap 'echo asked; exit' INT; while :; do sleep 0.01; done"
        )
        assert (done.returncode, done.stdout) == (124, "asked\n")
        assert "; SIGINT, its" in done.stderr


@pytest.mark.parametrize("name", ["RTMIN+3", "SIGRTMIN+3", "RTMAX-27", "37", "SIG37"])
def test_a_real_time_signal_may_ask_it_to_end(folder: Path, name: str) -> None:
    done = run("--run-s", "0.2", "-s", name, "--json", "--", "sleep", "60")
    end = ended(done)
    assert (done.returncode, end["signal"], end["certificate"]["last_signal"]) == (124, "SIG37", "SIG37")
    assert f"'{name}9' is no signal" in run("-s", f"{name}9", "--", "true").stderr


GROWS = "kept = [bytearray(1 << 20) for _ in range(400)]; import time; time.sleep(60)"
FORKS = "import os, time\nfor _ in range(9): os.fork() or time.sleep(60)\ntime.sleep(60)"
THREADS = "import threading, time\nfor _ in range(9): threading.Thread(target=time.sleep, args=[60]).start()"


@pytest.mark.parametrize(
    ("limit", "program", "code"),
    [
        (("--memory", "64MiB"), GROWS, "limit.memory"),
        (("--cpu-s", "0.3"), "while True: pass", "limit.cpu"),
        (("--processes-max", "5"), FORKS, "limit.processes"),
        (("--threads-max", "5"), THREADS, "limit.threads"),
    ],
)
def test_each_limit_ends_it_with_its_code(folder: Path, limit: tuple[str, str], program: str, code: str) -> None:
    done = run(*limit, "--grace-s", "0.1", "--json", "--", PYTHON, "-c", program)
    assert done.returncode == 137
    assert ended(done)["error"]["code"] == code


def test_limits_count_what_has_left_its_parents(folder: Path) -> None:
    daemon = "kept = bytearray(100 << 20); import time; time.sleep(60)"
    done = run("--memory", "64MiB", "--json", "--", "sh", "-c", f"setsid {PYTHON} -c '{daemon}' & sleep 60")
    assert ended(done)["error"]["code"] == "limit.memory"


def test_files_are_limited_by_the_kernel(folder: Path) -> None:
    done = run("--files-max", "32", "--", "sh", "-c", "ulimit -Sn; ulimit -Hn")
    assert done.stdout == "32\n32\n"


# ── nothing is left ──

LEAVING = "sleep 60 & echo $! > child; setsid sh -c 'echo $$ > daemon; exec sleep 60' & "


def test_what_a_command_leaves_behind_is_killed_at_its_end(folder: Path) -> None:
    done = run("--json", "--", "sh", "-c", f"{LEAVING} while ! [ -s daemon ]; do sleep 0.01; done; exit 5")
    assert done.returncode == 5
    assert ended(done)["certificate"]["processes_swept"] == 2
    for name in ("child", "daemon"):
        assert read_process(int((folder / name).read_text())) is None


def test_a_daemon_that_has_ended_is_no_zombie_while_the_command_runs(folder: Path) -> None:
    with start("--", "sh", "-c", "(echo $(exec sh -c 'echo $PPID') > ended &) ; exec sleep 60") as process:
        gone = pid_in(folder / "ended")
        until(lambda: read_process(gone) is None or Pending(read_process(gone)), "it has been reaped")
        process.terminate()


@pytest.mark.parametrize("whom", ["owner", "keeper", "both"])
def test_nothing_outlives_it_whoever_is_killed(folder: Path, whom: str) -> None:
    with start("--json", "--", "sh", "-c", f"{LEAVING} echo $$ > pid; wait") as process:
        command, child, daemon = (pid_in(folder / name) for name in ("pid", "child", "daemon"))
        keeper = read_process(command).parent  # type: ignore[union-attr]
        if whom == "both":
            os.kill(process.pid, signal.SIGSTOP)  # it must not see the keeper's end
        if whom != "owner":
            os.kill(keeper, signal.SIGKILL)
        if whom != "keeper":
            os.kill(process.pid, signal.SIGKILL)
        if whom == "both":
            until(has_ended(command), "the command dies with its keeper")
            with contextlib.suppress(ProcessLookupError):
                for pid in (child, daemon):
                    os.kill(pid, signal.SIGKILL)  # the only ones that nobody looks after any more
        for pid in (command, child, daemon, keeper):
            until(has_ended(pid), "nothing is left")
        said = process.stderr.read() if process.stderr else ""
    if whom == "keeper":
        assert process.returncode == 137
        assert json.loads(said)["error"]["code"] == "worker_lost"
        assert json.loads(said)["certificate"]["tree_empty"] >= 0


def test_a_thousand_processes_that_fork_at_once_end_with_the_limit(folder: Path) -> None:
    """A fork bomb, but for its end: without one a machine would not survive the fault that this looks for."""
    bomb = "import os, time\nfor _ in range(10): os.fork()\ntime.sleep(60)"
    with start("--processes-max", "50", "--grace-s", "0", "--json", "--", PYTHON, "-c", bomb) as process:
        said = process.stderr.read() if process.stderr else ""
    assert process.returncode == 137
    end = json.loads(said)
    assert end["error"]["code"] == "limit.processes"
    assert end["certificate"]["processes_swept"] > 50 and "tree_empty" in end["certificate"]


def test_what_a_killed_command_had_left_is_counted_however_long_its_own_end_takes(folder: Path) -> None:
    program = (
        "import os, time\n"
        "for _ in range(40):\n"
        "    if os.fork() == 0:\n"
        "        os.fork() and os._exit(0)\n"  # its child is the keeper's from here on
        "        time.sleep(60)\n"
        "    os.wait()\n"
        "memory = bytearray(os.urandom(1 << 20)) * 768\n"  # freed before it is a zombie: it ends last
        "print(flush=True)\n"
        "time.sleep(60)"
    )
    with start("--grace-s", "0", "--json", "--", PYTHON, "-c", program) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.terminate()
        end = json.loads(process.stderr.read())
    assert end["certificate"]["processes_swept"] == 40


# ── signals ──


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_asks_it_to_end_is_passed_on_and_begins_the_grace(folder: Path, number: signal.Signals) -> None:
    with start(
        "--grace-s", "0.2", "--json", "--", "sh", "-c", "trap '' TERM INT HUP QUIT; echo $$ > pid; sleep 60"
    ) as process:
        pid_in(folder / "pid")
        process.send_signal(number)
        said = process.stderr.read() if process.stderr else ""
    end = json.loads(said)
    assert end["state"] == "cancelled" and end["error"]["reason"] == number.name
    assert end["certificate"]["kill_sent"] >= 200
    assert process.returncode == -signal.SIGKILL


def test_it_dies_of_the_signal_that_it_was_sent(folder: Path) -> None:
    with start("--", "sh", "-c", "echo $$ > pid; exec sleep 60") as process:
        pid_in(folder / "pid")
        process.terminate()
    assert process.returncode == -signal.SIGTERM


def test_other_signals_are_passed_on_only(folder: Path) -> None:
    script = "trap 'echo one' USR1; trap 'echo two; exit 4' USR2; echo $$ > pid; while :; do sleep 0.01; done"
    with start("--", "sh", "-c", script) as process:
        pid_in(folder / "pid")
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None and process.stdout.readline() == "one\n"
        process.send_signal(signal.SIGUSR2)
        assert process.stdout.readline() == "two\n"
    assert process.returncode == 4


@pytest.mark.parametrize("number", [signal.SIGWINCH, signal.SIGRTMIN, signal.SIGRTMAX])
def test_signals_without_a_meaning_for_it_are_passed_on_too(folder: Path, number: int) -> None:
    program = f"import signal; signal.signal({int(number)}, lambda *_: print('got it') or exit(4))\n"
    with start("--", PYTHON, "-uc", f"{program}print('ready')\nwhile True: signal.pause()") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "got it\n"
    assert process.returncode == 4


def test_a_command_that_is_stopped_is_ended_too(folder: Path) -> None:
    with start("--json", "--", "sh", "-c", "echo $$ > pid; exec sleep 60") as process:
        command = pid_in(folder / "pid")
        os.kill(command, signal.SIGSTOP)
        until(is_in_state(command, "T"), "it is stopped")
        process.terminate()
        said = process.stderr.read() if process.stderr else ""
    assert json.loads(said)["signal"] == "SIGTERM"


def test_a_keeper_that_is_stopped_is_woken(folder: Path) -> None:
    with start("--json", "--", "sh", "-c", "echo $$ > pid; exec sleep 60") as process:
        keeper = read_process(pid_in(folder / "pid")).parent  # type: ignore[union-attr]
        os.kill(keeper, signal.SIGSTOP)
        until(is_in_state(keeper, "T"), "it is stopped")
        process.terminate()
    assert process.returncode == -signal.SIGTERM


@pytest.fixture
def held(folder: Path) -> Iterator[Path]:
    """A program whose execve(2) waits: for a lease here, and for a server where it is on a network file system."""
    program = folder / "held"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    descriptor = os.open(program, os.O_RDONLY)
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # that it is broken is told by SIGIO, which ends a process
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    yield program
    os.close(descriptor)


def test_it_ends_while_its_program_is_still_being_executed(held: Path) -> None:
    done = run("--json", "--run-s", "0.1", "--grace-s", "0", "--", str(held))
    assert (done.returncode, ended(done)["error"]["code"]) == (124, "timeout.run")
    for number in (signal.SIGINT, signal.SIGKILL):
        with start("--", str(held)) as process:
            below = until(lambda: len(found := descendants(process.pid)) > 1 and found, "it is being executed")
            process.send_signal(number)
            assert process.wait() == -number
        for each in below:
            until(has_ended(each.pid), "nothing is left")


# ── a terminal ──


class Terminal:
    """A shell with job control in a pseudo terminal, in which a person types."""

    def __init__(self, folder: Path) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="$ ", TERM="dumb", PATH=f"{folder}:{os.environ['PATH']}")
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.screen = self.line = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text stands on the screen behind what was waited for before."""
        while text not in self.screen:
            self.screen += os.read(self._descriptor, 4096).decode(errors="replace")
        self.line, _, self.screen = self.screen.partition(text)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._descriptor)


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    script = folder / "k"
    script.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} run "$@"\n')
    script.chmod(0o755)
    made = Terminal(folder)
    made.wait_for("$ ")
    yield made
    made.close()


def test_the_command_has_the_terminal(terminal: Terminal) -> None:
    program = (
        "import os; f = open('/dev/tty'); print('fg', os.tcgetpgrp(0) == os.getpgrp()); print('got', f.readline())"
    )
    terminal.type(f'k -- {PYTHON} -c "{program}"\n')
    terminal.wait_for("fg True")
    terminal.type("some words\n")
    terminal.wait_for("got some words")
    terminal.wait_for("$ ")
    terminal.type("echo still $((40 + 2))\n")
    terminal.wait_for("still 42")


def test_what_could_not_be_run_has_not_kept_the_terminal(terminal: Terminal, folder: Path) -> None:
    program = "import os; print('fg', os.tcgetpgrp(0) == os.getpgrp())"
    (folder / "script").write_text(f'k -- /no/such\nk -- /etc/passwd\n{PYTHON} -c "{program}"\n')
    terminal.type("bash script\n")
    terminal.wait_for("\nfg ")
    terminal.wait_for("\n")
    assert terminal.line == "True\r"


def test_ctrl_c_is_for_the_command(terminal: Terminal, folder: Path) -> None:
    terminal.type("k -- sh -c 'trap \"echo asked; exit 9\" INT; echo ready; while :; do sleep 0.01; done'\n")
    terminal.wait_for("\nready")
    terminal.type("\x03")
    terminal.wait_for("asked")
    terminal.wait_for("$ ")
    terminal.type("echo code $?\n")
    terminal.wait_for("code 9")
    terminal.type("k -- sh -c 'echo on; exec sleep 60'\n")
    terminal.wait_for("\non")
    terminal.type("\x03")
    terminal.wait_for("$ ")
    terminal.type("echo code $?\n")
    terminal.wait_for("code 130")


def test_ctrl_c_ends_a_script_around_it_too(terminal: Terminal, folder: Path) -> None:
    (folder / "script").write_text("k -- sh -c 'echo on; exec sleep 60'\necho went on\n")
    terminal.type("bash script; echo code $?\n")
    terminal.wait_for("\non")
    terminal.type("\x03")
    terminal.wait_for("$ ")
    assert "went on" not in terminal.screen
    terminal.type("echo at the $((6 * 7))\n")
    terminal.wait_for("at the 42")


def test_ctrl_z_stops_it_and_fg_continues_it(terminal: Terminal, folder: Path) -> None:
    terminal.type("k -- sh -c 'echo $$ > pid; echo on; read line; echo got $line'\n")
    terminal.wait_for("\non")
    command = pid_in(folder / "pid")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.wait_for("$ ")
    assert is_in_state(command, "T")()
    terminal.type("fg\n")
    until(lambda: not is_in_state(command, "T")() or Pending("stopped"), "it goes on")
    terminal.type("words\n")
    terminal.wait_for("got words")
    terminal.wait_for("$ ")
    terminal.type("kill %1 2>&1 | grep -o 'no such job'\n")
    terminal.wait_for("no such job")


def test_fg_continues_it_once(terminal: Terminal, folder: Path) -> None:
    """A second SIGCONT continued a command that the next Ctrl-Z had just stopped, and no shell was told of the stop."""
    (folder / "count.py").write_text(
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.write(1, b'waits\\n')\n"
        "number = 0\n"
        "while signal.sigwait([signal.SIGCONT]):\n"
        "    number += 1\n"
        "    os.write(1, b'continued %d\\n' % number)\n"
    )
    terminal.type(f"k -- {PYTHON} count.py\n")
    terminal.wait_for("\nwaits")
    for number in range(1, 11):
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.wait_for("$ ")
        terminal.type("fg\n")
        terminal.wait_for("continued ")
        terminal.wait_for("\r\n")
        assert terminal.line == str(number)
    terminal.type("\x03")
    terminal.wait_for("$ ")
    assert "continued" not in terminal.line


def test_in_the_background_it_leaves_the_terminal_alone(terminal: Terminal, folder: Path) -> None:
    terminal.type("k -- sh -c 'echo $$ > pid; exec sleep 60' &\n")
    command = pid_in(folder / "pid")
    terminal.type("echo here $((1 + 1))\n")
    terminal.wait_for("here 2")
    terminal.type("kill %1; wait\n")
    until(has_ended(command), "it has ended")


def test_what_asks_for_the_terminal_in_the_background_stops_and_fg_brings_it_back(
    terminal: Terminal, folder: Path
) -> None:
    terminal.type("k -- sh -c 'echo $$ > pid; read line; echo got $line; read line; echo and $line' &\n")
    command = pid_in(folder / "pid")
    keeper = read_process(command).parent  # type: ignore[union-attr]
    until(is_in_state(read_process(keeper).parent, "T"), "it has asked")  # type: ignore[union-attr]
    terminal.type("\n")
    terminal.wait_for("Stopped")
    terminal.type("set -b; bg\n")  # it is told of a stop at once
    terminal.wait_for("Stopped")
    terminal.type("fg\n")
    until(lambda: not is_in_state(command, "T")() or Pending("stopped"), "it goes on")
    terminal.type("words\n")
    terminal.wait_for("got words")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.type("fg\n")
    until(lambda: not is_in_state(command, "T")() or Pending("stopped"), "it goes on")
    terminal.type("more\n")
    terminal.wait_for("and more")
    terminal.wait_for("$ ")


def test_a_pager_behind_it_reads_from_the_terminal(terminal: Terminal) -> None:
    """The whole pipeline was stopped when it did, for the command had the terminal."""
    program = "read first; echo $first, ready; read key < /dev/tty; echo got $key"
    terminal.type(f"k -- sh -c 'echo one; exec sleep 60' | sh -c '{program}'\n")
    terminal.wait_for("\none, ready")
    terminal.type("a key\n")
    terminal.wait_for("got a key")
    terminal.type("\x03")
    terminal.wait_for("$ ")


def test_in_a_pipeline_it_has_the_terminal_when_it_asks_for_it(terminal: Terminal) -> None:
    terminal.type("k -- sh -c 'echo $((6 * 7)) > /dev/tty; read line < /dev/tty; echo got $line' | cat\n")
    terminal.wait_for("\n42")
    terminal.type("words\n")
    terminal.wait_for("got words")
    terminal.wait_for("$ ")
    terminal.type("echo still $((40 + 2))\n")
    terminal.wait_for("still 42")


def test_attributes_of_the_terminal_are_restored_behind_a_kill(terminal: Terminal, folder: Path) -> None:
    program = "import tty, os, time; tty.setraw(0); print('raw', flush=True); time.sleep(60)"
    terminal.type(f'k --run-s 0.5 --grace-s 0 -- {PYTHON} -c "{program}"\n')
    terminal.wait_for("\nraw")
    terminal.wait_for("$ ")
    terminal.type("stty -a | grep -o ' echo '\n")
    terminal.wait_for("\r\n echo ")


def test_reports_can_be_kept_in_a_file(folder: Path) -> None:
    began = time.monotonic()
    done = run("--report", "end.json", "--", "sh", "-c", "exit 6")
    assert (done.returncode, done.stderr) == (6, "")
    end = json.loads((folder / "end.json").read_text())
    assert (end["state"], end["exit_code"], end["error"]["code"]) == ("failed", 6, "exit")
    assert 0 < end["run_s"] < time.monotonic() - began
    assert not descendants(os.getpid())


def test_a_named_pipe_may_take_the_report(folder: Path) -> None:
    """It is not opened before the end: who reads it would take the first close for the end."""
    os.mkfifo("end.json")
    with (
        subprocess.Popen(["cat", "end.json"], stdout=subprocess.PIPE, text=True) as reader,
        start("--report", "end.json", "--", "sh", "-c", "exit 6") as process,
    ):
        said = reader.communicate(timeout=60)[0]
        if not said:
            process.kill()  # it waits for another reader
    assert (json.loads(said)["exit_code"], process.returncode) == (6, 6)
