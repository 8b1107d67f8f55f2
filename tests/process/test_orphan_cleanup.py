"""What a dead supervisor has left is found by the next one, ended, removed and logged; what a living one has is not."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from job_runs import hostile_pool
from owner_process import Owner
from support import processes
from support.supervisor_fixture import CGROUP_PROOF, NEEDS_CGROUPS, StartSupervisor
from support.waiting import Pending, until, until_async

from killable.supervisor.linux import env_marker, orphan_cleanup
from killable.supervisor.linux.instance_id import InstanceId, owner_of_folder, sees_own_pids

ESCAPING = """
import os, time
from killable import Context, job

@job
def escapes(ctx: Context) -> None:
    \"\"\"Leave two daemons, one of which has cleaned its environment.\"\"\"
    ctx.tmp.joinpath("left").write_text("left")
    for environment in ("kept", "cleaned"):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for descriptor in range(3, 100):
                    try:
                        os.close(descriptor)
                    except OSError:
                        pass
                mark = {name: value for name, value in os.environ.items() if name == "TESTS_OF_KILLABLE"}
                os.execvpe("sleep", ["sleep", "3600"], dict(os.environ) if environment == "kept" else mark)
            os._exit(0)
    ctx.emit("in")
    time.sleep(3600)
"""


class Dying(Owner):
    """A program that owns a supervisor and two daemons that its job has left, and what is known of it."""

    def find(self) -> None:
        """Wait until all of it is there."""
        self.read_report()
        zygote, job = (
            processes.read_process(self.report["pools"][0]["zygote_pid"]),
            processes.read_process(self.report["jobs"][0]["pid"]),
        )
        assert zygote is not None and job is not None
        self.guard = zygote.parent
        owner = InstanceId.of(self.pid)
        assert owner is not None
        self.owner = owner
        self.folder = next(Path(tempfile.gettempdir()).glob(f"{owner.folder_prefix}*"))
        self.daemons = until(self._sleeping, "its daemons are there")
        self.known = [zygote, job, *self.daemons]

    def _sleeping(self) -> list[processes.ProcessInfo] | Pending:
        found = [seen for seen in processes.descendants(self.pid) if seen.name == "sleep" and _environment(seen.pid)]
        return found if len(found) == 2 else Pending(found)

    def kill_unswept(self, *, guard: bool) -> None:
        """SIGKILL it; with its guard stopped, or dead as well, so that nobody sweeps."""
        self._process.send_signal(signal.SIGSTOP)  # a guard that dies before its owner is swept after by that
        until(lambda: (seen := processes.read_process(self.pid)) and seen.state == "T", "the owner is stopped")
        os.kill(self.guard, signal.SIGKILL if guard else signal.SIGSTOP)
        self.kill()


def _environment(pid: int) -> bytes:
    """Return what a process was started with; nothing while its execve(2) goes on, after its name has changed."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def carries(seen: processes.ProcessInfo) -> bool:
    """Tell whether it can be found by its marker."""
    return b"KILLABLE_INSTANCE" in _environment(seen.pid)


@contextmanager
def dying(folder: Path, proof: str) -> Iterator[Dying]:
    (folder / "escaping.py").write_text(ESCAPING)
    pool = {"modules": [str(folder / "escaping.py")], "workers": 1, "spares": 0}
    arguments = {"settings": {"proof": proof}, "pools": {"leaving": pool}, "jobs": [["escapes", {}, 1]]}
    with Dying(arguments) as host:
        host.find()
        yield host


def swept(caplog: pytest.LogCaptureFixture, dead: str, field: str) -> list[Any]:
    """Return what the log says that was swept of one owner; others on this machine may have died, too."""
    found = []
    for record in caplog.records:
        if record.name == "killable.system" and record.msg == "swept" and hasattr(record, field):
            of = next(getattr(record, kind) for kind in ("cookie", "cgroup", "folder") if hasattr(record, kind))
            if of.startswith(dead):
                found.append(getattr(record, field))
    return found


def there(seen: processes.ProcessInfo) -> bool:
    now = processes.read_process(seen.pid)
    return now is not None and now.started == seen.started and now.state != "Z"


# Any supervisor that starts on this machine sweeps, not only a test's own: what it finds is gone, whoever was quicker.


@NEEDS_CGROUPS
@pytest.mark.row("D17")
async def test_the_next_start_ends_what_carries_a_dead_owners_marker(
    tmp_path: Path, supervisor: StartSupervisor
) -> None:
    """Supervisor and guard are killed together. Beside them another one lives, and keeps all that it has."""
    with ExitStack() as stack:
        living = stack.enter_context(dying(tmp_path, CGROUP_PROOF))
        dead = stack.enter_context(dying(tmp_path, "descendants"))
        clean, carrying = sorted(dead.daemons, key=carries)
        dead.kill_unswept(guard=True)
        await supervisor(hostile_pool())
        await until_async(lambda: not there(carrying), "killed before the first zygote was started")
        await until_async(lambda: not dead.folder.exists(), "its folder is removed")
        # What cleaned its environment and is in no group is found by nobody but its guard, which is dead.
        assert there(clean)
        os.kill(clean.pid, signal.SIGKILL)
        assert all(there(seen) for seen in living.known) and living.folder.exists()


@NEEDS_CGROUPS
@pytest.mark.row("D18")
async def test_the_next_start_ends_what_is_in_a_dead_owners_group(tmp_path: Path, supervisor: StartSupervisor) -> None:
    """One of the daemons has cleaned its environment: nobody can find it but by the group's name."""
    with ExitStack() as stack:
        living = stack.enter_context(dying(tmp_path, CGROUP_PROOF))
        dead = stack.enter_context(dying(tmp_path, CGROUP_PROOF))
        groups = processes.cgroups_of(dead.pid)
        assert groups and all(map(there, dead.daemons))
        dead.kill_unswept(guard=True)
        await supervisor(hostile_pool(spares=0))
        await until_async(lambda: not any(map(there, dead.daemons)), "both are gone")
        await until_async(lambda: not processes.cgroups_of(dead.pid), "and so is their group")
        assert all(there(seen) for seen in living.known) and processes.cgroups_of(living.pid)


@pytest.mark.row("D17")
async def test_the_next_start_lets_a_guard_finish_that_is_at_work(
    proof: str,
    tmp_path: Path,
    supervisor: StartSupervisor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was stopped when its owner died. It is continued, not killed: it finds what cleaned its environment, too."""
    monkeypatch.setattr(env_marker, "GUARD_S", 60.0)
    monkeypatch.setattr(orphan_cleanup, "SWEEP_S", 90.0)
    with dying(tmp_path, proof) as dead:
        dead.kill_unswept(guard=False)
        with caplog.at_level(logging.WARNING, "killable.system"):
            await supervisor(hostile_pool(spares=0), proof="descendants")
        assert not any(map(there, dead.daemons)) and swept(caplog, dead.owner.name, "pid") == []
        await until_async(lambda: not dead.folder.exists(), "its folder is removed")
    assert processes.cgroups_of(dead.pid) == []


def test_what_is_swept_by_its_marker_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Also what was forked meanwhile; an owner's name is not looked at here, so that nobody else sweeps these."""
    marker = f"test-{os.getpid()}/instance/pool/1"
    script = "for i in 1 2 3; do setsid sleep 3600 & done; wait"
    with subprocess.Popen(["sh", "-c", script], env={**os.environ, env_marker.MARKER: marker}) as shell:
        names = lambda: sorted(seen.name for seen in processes.marked(env_marker.MARKER, marker))  # noqa: E731
        until(lambda: (found := names()) == ["sh", *["sleep"] * 3] or Pending(found), "all are there")
        finished = threading.Event()
        with caplog.at_level(logging.WARNING, "killable.system"):
            orphan_cleanup.sweep_marker_in_thread(marker, 60.0, finished.set)
            assert finished.wait(90)
    assert shell.returncode == -signal.SIGKILL and shell.pid in swept(caplog, marker, "pid")
    assert "sleep: sleep 3600" in swept(caplog, marker, "command")
    until(lambda: Pending(left) if (left := processes.marked(env_marker.MARKER, marker)) else True, "nothing is left")


@pytest.mark.row("D18")
def test_the_marker_of_a_process_whose_exec_is_under_way_is_read_when_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its environment reads empty for a moment, in which `Popen` has returned already."""
    monkeypatch.setattr(env_marker, "_EXEC_LOOKS_MAX", 60_000)
    marker = f"test-{os.getpid()}/instance/pool/2"
    read = []
    for _ in range(100):
        with subprocess.Popen(["sleep", "3600"], env={**os.environ, env_marker.MARKER: marker}) as process:
            read.append(env_marker._marker_of(str(process.pid)))
            process.kill()
    assert set(read) == {marker}


STARTED_FROM_A_LEFTOVER = """
import os, subprocess, sys
from killable.supervisor import clock
from killable.supervisor.linux import env_marker
from killable.supervisor.linux.instance_id import InstanceId
here = InstanceId.of(os.getpid())
dead = [InstanceId(here.boot, here.namespace, 1, started) for started in (1, 2)]
mine, others = (owner.marker("instance", "pool/1") for owner in dead)
if env_marker.MARKER not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, env_marker.MARKER: mine})
child = subprocess.Popen(["sleep", "3600"])
other = subprocess.Popen(["sleep", "3600"], env={env_marker.MARKER: others})
swept, left = env_marker.kill_waves(env_marker.ownerless(), clock.monotonic() + 60)
print([found.pid == other.pid for found in swept], left, child.poll(), other.wait())
child.kill(), child.wait()
"""


def in_namespace(script: str, *options: str, arguments: Sequence[str] = ()) -> str:
    """Run a Python script in a pid namespace of its own, whose processes no supervisor outside can tell of."""
    command = ["unshare", "--pid", "--fork", "--kill-child", *options]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("a pid namespace of one's own is not permitted here")
    done = subprocess.run(
        [*command, sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_whoever_was_started_from_a_leftover_ends_neither_itself_nor_its_kind() -> None:
    """The environment of a program may carry a dead owner's marker: what started it, and itself, want to live."""
    assert in_namespace(STARTED_FROM_A_LEFTOVER, "--mount-proc") == "[True] [] None -9"


STARTED_WHERE_TWO_HAVE_DIED = """
import asyncio, json, logging, sys, tempfile, threading
from pathlib import Path
from support import processes
from support.waiting import Pending, until
from test_orphan_cleanup import carries, dying, there
from job_runs import hostile_pool
from owner_process import Owner
from killable.supervisor.linux import orphan_cleanup
from killable.supervisor.supervisor import Supervisor
from killable.supervisor.settings import Settings

orphan_cleanup.EMPTY_MS, orphan_cleanup.WAVES_S, orphan_cleanup.SWEEP_S = 30_000, 30.0, 60.0
said = []
logging.getLogger("killable").propagate = False
system = logging.getLogger("killable.system")
system.addHandler(handler := logging.Handler())
handler.emit = said.append

async def start():
    one = Supervisor(Settings(pools=(hostile_pool(spares=0),)))
    await one.start()
    await one.close(grace_s=0)

try:
    with dying(Path(sys.argv[1]), "cgroup+descendants") as grouped, dying(Path(sys.argv[1]), "descendants") as alone:
        groups = [path.name for path in processes.cgroups_of(grouped.pid)]
        clean, carrying = sorted(alone.daemons, key=carries)
        for dead in (grouped, alone):
            dead.kill_unswept(guard=True)
            until(lambda: not any(there(seen) for seen in dead.known if seen not in dead.daemons), "it has gone itself")
        asyncio.run(start())
        until(lambda: not [one for one in threading.enumerate() if one.name == "killable-sweep"], "it has swept")
        folders = [("folder", str(dead.folder)) for dead in (grouped, alone)]
        expected = [("cgroup", *groups), *folders, ("pid", carrying.pid)]
finally:
    orphan_cleanup.sweep_groups(), orphan_cleanup.sweep_folders(tempfile.gettempdir())  # nobody outside can
kinds = ("cgroup", "folder", "pid")
told = sorted((kind, getattr(one, kind)) for one in said if one.msg == "swept" for kind in kinds if hasattr(one, kind))
print(json.dumps([told, sorted(expected), sorted({one.msg for one in said})]))
"""


@pytest.mark.row("D17", "D18")
def test_a_start_logs_each_group_process_and_folder_that_it_has_swept_once(tmp_path: Path) -> None:
    """In a pid namespace of its own: what has died there no other supervisor can tell of, and none is quicker."""
    told, expected, events = json.loads(
        in_namespace(STARTED_WHERE_TWO_HAVE_DIED, "--mount-proc", arguments=[str(tmp_path)])
    )
    assert told == expected and [kind for kind, _ in told] == ["cgroup", "folder", "folder", "pid"]
    assert events == ["swept"]


# ── folders ──


def test_only_folders_of_exactly_our_scheme_whose_owner_is_gone_are_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = InstanceId.of(os.getpid())
    assert here is not None
    gone = InstanceId(here.boot, here.namespace, here.pid, here.started - 1)
    elsewhere = InstanceId(here.boot, here.namespace + 1, here.pid, 1)
    before = InstanceId("0" * 32, here.namespace, here.pid, 1)
    made = {name: tmp_path / f"{owner.folder_prefix}abcdefgh" for name, owner in
            {"gone": gone, "living": here, "elsewhere": elsewhere, "before": before}.items()}  # fmt: skip
    made |= {"unlike": tmp_path / f"{gone.folder_prefix}abcdefg", "plain": tmp_path / "killable-abcdefgh"}
    for folder in made.values():
        (folder / "w-1").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    link = tmp_path / f"{gone.folder_prefix}linklink"
    link.symlink_to(victim)
    (made["gone"] / "w-1" / "out").symlink_to(victim)
    file = tmp_path / f"{gone.folder_prefix}filefile"
    file.touch()
    foreign = tmp_path / f"{gone.folder_prefix}foreignx"
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    with caplog.at_level(logging.WARNING, "killable.system"):
        orphan_cleanup.sweep_folders(str(tmp_path))
    logged = swept(caplog, str(tmp_path), "folder")
    assert logged == [str(made["gone"])] or (os.geteuid() != 0 and str(foreign) in logged)
    left = [folder for folder in made.values() if folder.exists()]
    assert left == [folder for name, folder in made.items() if name != "gone"]
    assert (victim / "kept").exists() and link.is_symlink() and file.exists()
    assert foreign.exists() == (os.geteuid() == 0)


# ── owners ──


def test_an_owner_is_told_by_its_name() -> None:
    owner = InstanceId.of(os.getpid())
    assert owner is not None and InstanceId.named(owner.name) == owner and not owner.is_gone()
    assert owner_of_folder(f"{owner.folder_prefix}a1_b2c3d") == owner
    for wrong in ("", owner.name + "-", owner.name[:-1] + "x", "x" + owner.name, owner.name + "\n", "killable-1-2-3-4"):
        assert InstanceId.named(wrong) is None
    assert InstanceId(owner.boot, owner.namespace, owner.pid, owner.started + 1).is_gone()
    for unknown in (InstanceId("0" * 32, owner.namespace, 1, 1), InstanceId(owner.boot, 1, 1, 1)):
        assert not unknown.is_gone()


def test_an_owner_of_which_only_a_zombie_is_left_is_gone() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    owner = InstanceId.of(pid)
    until(lambda: (seen := processes.read_process(pid)) and seen.state == "Z", "it is a zombie")
    assert InstanceId.of(pid) is None and (owner is None or owner.is_gone())
    os.waitpid(pid, 0)


def test_the_processes_of_another_pid_namespace_are_not_told_by_number() -> None:
    """In a container that sees its host's /proc the numbers there are of others: nobody is swept."""
    assert sees_own_pids()
    script = "from killable.supervisor.linux.instance_id import *; print(sees_own_pids(), InstanceId.of(1).is_gone())"
    assert in_namespace(script) == "False False"
