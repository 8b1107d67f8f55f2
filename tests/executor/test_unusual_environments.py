"""Programs and machines that are not like ours: no stderr, no core dumps, odd mounts, a /tmp that is tidied up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import executor_tasks
import pytest
from programs import told_by
from support.waiting import Pending, until

from killable import Context, Executor, WorkerCrashed

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")
PROGRAM = """
    import os, sys
    {first}
    from killable import Executor
    with Executor(max_workers=1) as executor:
        os.write(1, str(executor.submit(pow, 2, 10).result()).encode())
"""


def run(first: str = "", *, under: tuple[str, ...] = ()) -> str:
    """Run a program that computes 1024 with one call; return what it has printed."""
    program = textwrap.dedent(PROGRAM).format(first=first)
    done = subprocess.run([*under, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=240)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("first", ["os.close(2)", "sys.stderr.close()", "sys.stderr.close(); os.close(0); os.close(2)"])
def test_a_program_without_stderr(first: str) -> None:
    assert run(first) == "1024"


def test_a_path_with_entries_that_are_no_text() -> None:
    """The import system passes them over."""
    assert run("import pathlib; sys.path[:0] = [pathlib.Path('/lib'), b'/lib', None]") == "1024"


def test_a_working_directory_that_was_removed() -> None:
    assert run("import tempfile; os.chdir(folder := tempfile.mkdtemp()); os.rmdir(folder)") == "1024"


@ROOT
def test_a_user_who_may_have_no_core_dump_at_all() -> None:
    """As with `ulimit -Hc 0`: it must not be asked for one byte, either, without CAP_SYS_RESOURCE (setrlimit(2))."""
    drop = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
    lack = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
    assert run(drop, under=lack) == "1024"


@ROOT
def test_a_mount_of_nothing_on_a_path_that_is_no_text(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(place)
    mounting = b"mount -t tmpfs '' '" + place + b'\' && exec "$@"'
    assert run(under=("unshare", "--mount", "sh", "-c", os.fsdecode(mounting), "sh")) == "1024"


def test_a_folder_of_the_pool_that_was_tidied_away(own_executor: Executor) -> None:
    zygote = own_executor.submit(os.getppid).result()
    with open(f"/proc/{zygote}/environ") as file:
        assert "KILLABLE_INSTANCE" in file.read()
    for folder in folders_of(own_executor):
        shutil.rmtree(folder)
    (pool,) = own_executor._tasks.supervisor._fleet
    os.kill(zygote, signal.SIGKILL)
    until(lambda: pool.zygote_restarts == 1 or Pending(pool), "its pool has heard of it")
    assert own_executor.submit(executor_tasks.square, 4).result(timeout=60) == 16


def folders_of(executor: Executor) -> list[str]:
    supervisor = executor._tasks.supervisor
    return [spawner._tmp for spawner in supervisor._fleet._resources.spawners]  # type: ignore[union-attr]


def dies_in_each_fork() -> None:
    os.register_at_fork(before=lambda: os._exit(3))


def test_a_zygote_that_dies_in_each_fork_breaks_its_pool() -> None:
    with Executor(max_workers=1, preload=dies_in_each_fork) as executor, pytest.raises(WorkerCrashed) as caught:
        executor.submit(executor_tasks.square, 2).result(timeout=60)
    assert "zygotes in a row ended before a worker was ready" in str(caught.value)


def nest(deep: int, folder: str) -> int:
    os.chdir(folder)
    for _ in range(deep):
        os.mkdir("d")
        os.chdir("d")
    return deep


def test_folders_deeper_than_python_goes_are_removed(tmp_path: Path) -> None:
    from killable.workers.runtime.tmp_removal import remove_tree

    with Executor(max_workers=1) as executor:
        folder = tmp_path / "deep"
        folder.mkdir()
        assert executor.submit(nest, 1200, str(folder)).result() == 1200
    remove_tree(folder)
    assert not folder.exists()


def lowers_its_limit() -> str:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
    return "done"


def leaves_with_words() -> None:
    sys.stderr.close()
    sys.exit("bye")


def test_a_call_that_lowers_a_limit_for_good_keeps_its_result(executor: Executor) -> None:
    assert executor.with_limits(memory_bytes=2 << 30).submit(lowers_its_limit).result() == "done"
    assert (
        executor.with_limits(memory_bytes=sys.maxsize, cpu_s=float(1 << 62)).submit(executor_tasks.square, 3).result()
        == 9
    )


def test_last_words_into_a_closed_stderr_change_no_exit_code(executor: Executor) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        executor.submit(leaves_with_words).result()
    assert (caught.value.code, caught.value.exit_code) == ("exit", 1)


def says_progress_of_its_own(ctx: Context) -> None:
    ctx._channel.progress([1])  # type: ignore[arg-type]


def test_progress_that_is_no_object_breaks_the_protocol_and_nothing_else(executor: Executor) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        executor.submit(says_progress_of_its_own).result(timeout=60)
    assert caught.value.code == "protocol"
    assert executor.submit(executor_tasks.square, 5).result() == 25


SMALL_FILES = """
import resource
from killable import Executor
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
def large(mib):
    return bytes(mib << 20)
with Executor(max_workers=1) as executor:
    print(len(executor.submit(large, 3).result()), len(executor.submit(len, bytes(3 << 20)).result().to_bytes(8)))
    try:
        executor.submit(large, 80).result()
    except Exception as error:
        print(type(error).__name__, error.code, error.facts["limit_bytes"])
"""


def test_large_values_go_through_pipes_where_no_memory_file_may_be_as_large(tmp_path: Path) -> None:
    assert told_by(SMALL_FILES, tmp_path) == f"{3 << 20} 8\nJobFailed result.unserializable {64 << 20}\n"
