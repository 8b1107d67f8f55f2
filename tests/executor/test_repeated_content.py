"""Large content that tasks bring again and again: it is in memory once, and each task has the values of its submit."""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import gc
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import executor_tasks
import numpy as np
import pytest
from array_tasks import die_once, hang, last_of, total, write
from support.waiting import until

from killable import Executor
from killable.supervisor.executor.repeated_content import PART_BYTES_MIN
from killable.supervisor.linux import memory_writes
from killable.workers.protocol.message_bounds import SHARED_PARTS_MAX

LARGE = 1_000_000
"""Elements of an array: 8 MB."""


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(max_workers=1) as made:
        yield made
        made.kill_workers()


@pytest.fixture(params=["watched", "compared"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """One that has the kernel watch for changes, and one where the kernel does not."""
    if request.param == "compared":
        monkeypatch.setattr(memory_writes, "_SYS_USERFAULTFD", 1 << 20)  # no such system call
    with Executor(max_workers=1) as made:
        yield made
        made.kill_workers()


def memory_files() -> list[str]:
    """Return the memory files for large pieces of inputs that this process has open."""
    gc.collect()
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{descriptor}"
        with contextlib.suppress(FileNotFoundError):  # the Executor's thread opens and closes others meanwhile
            found.append((os.path.realpath(path), os.stat(path).st_size))
    return [link for link, size in found if "killable-input" in link and size > PART_BYTES_MIN]


def behind(executor: Executor, gate: Path, submit: Callable[[], Any]) -> Any:
    """Submit while the only worker is occupied; return what `submit` returns, and let the tasks run."""
    held = executor.submit(executor_tasks.wait_for, str(gate))
    until(held.running, "it runs")
    try:
        return submit()
    finally:
        gate.touch()


def test_waiting_tasks_have_one_copy_of_what_they_share(executor: Executor, tmp_path: Path) -> None:
    array, seen = np.ones(LARGE), []

    def submit() -> list[Any]:
        calls = [executor.submit(total, array, number) for number in range(10)]
        calls += [executor.submit(lambda: float(array[3])) for _ in range(10)]
        seen.extend(memory_files())
        return calls

    results = [call.result() for call in behind(executor, tmp_path / "gate", submit)]
    assert results == 10 * [float(LARGE)] + 10 * [1.0] and len(seen) == 1


NUMBERED = {number: f"the text of {number}" for number in range(100_000)}
IN_THE_PICKLE = {
    "dict": NUMBERED,
    "bytes": bytes(range(256)) * 10_000,
    "bytearray": bytearray(range(256)) * 10_000,
    "text": "äöü" * 1_000_000,
    "array": array.array("d", range(200_000)),
    "mixed": ["begin", b"x" * 2_000_000, list(range(300_000)), np.ones(100_000), "end"],
}


def test_what_is_pickled_anew_each_time_is_in_memory_once(executor: Executor, tmp_path: Path) -> None:
    for kind, values in IN_THE_PICKLE.items():
        seen = []

        def submit(values: Any = values, seen: list[str] = seen) -> list[Any]:
            calls = [executor.submit(last_of, number, values) for number in range(5)]
            calls += [executor.submit(lambda: (5, values[len(values) - 1])) for _ in range(5)]
            seen.extend(memory_files())
            return calls

        results = [call.result() for call in behind(executor, tmp_path / kind, submit)]
        assert results == [(min(number, 5), values[len(values) - 1]) for number in range(10)]
        # The pickles of both functions have the same large values, but not the same frames around small ones.
        assert len(seen) <= {"dict": 2, "mixed": 4}.get(kind, 1), (kind, seen)


def test_each_task_has_the_values_of_its_submit(either: Executor, tmp_path: Path) -> None:
    """Wherever it is written to: at an edge, which is not a whole page, or within. And however it is aligned."""
    dice = random.Random(1)
    whole = np.zeros(LARGE)
    views = {offset: whole[offset : LARGE - offset] for offset in (0, 1, 700)}
    expected = []

    def submit() -> list[Any]:
        calls = []
        for number in range(40):
            array = views[dice.choice(list(views))]
            if dice.random() < 0.6:
                array[dice.choice((0, -1, dice.randrange(len(array))))] += 1.0
            expected.append(float(array.sum()))
            calls.append(either.submit(total, array, number))
        return calls

    calls = behind(either, tmp_path / "gate", submit)
    assert [call.result() for call in calls] == expected


def test_other_content_at_the_same_place_is_seen(either: Executor) -> None:
    """An array that goes, and one of the same size that gets its memory."""
    places = set()
    for number in range(8):
        array = np.full(LARGE, float(number))
        places.add(array.ctypes.data)
        assert [either.submit(total, array).result() for _ in range(2)] == 2 * [number * float(LARGE)]
        del array
    assert len(places) < 8


def test_what_a_task_writes_is_its_own(executor: Executor) -> None:
    array = np.zeros(LARGE)
    assert [executor.submit(write, array).result() for _ in range(3)] == 3 * [1.0]
    assert executor.submit(total, array).result() == 0.0 == float(array.sum())


def test_a_copy_goes_with_the_last_task_unless_it_repeats(either: Executor) -> None:
    once = np.ones(LARGE)
    assert either.submit(total, once).result() == LARGE
    until(lambda: not memory_files(), "nobody needs it")
    for _ in range(3):
        assert either.submit(total, once).result() == LARGE
    assert len(memory_files()) == 1
    del once
    assert memory_files() == []


def test_a_copy_goes_when_its_object_goes_and_tasks_need_it_still(executor: Executor, tmp_path: Path) -> None:
    arrays = [np.ones(LARGE)]
    calls = behind(executor, tmp_path / "gate", lambda: [executor.submit(total, *arrays) for _ in range(3)])
    arrays.clear()
    assert [call.result() for call in calls] == 3 * [LARGE]
    until(lambda: not memory_files(), "nobody needs it")


def test_cancelled_tasks_need_nothing(executor: Executor, tmp_path: Path) -> None:
    arrays = [np.ones(LARGE)]

    def submit() -> None:
        _, *calls = [executor.submit(total, *arrays) for _ in range(3)]
        assert all(call.cancel() for call in calls)

    behind(executor, tmp_path / "gate", submit)
    arrays.clear()
    assert executor.submit(int).result() == 0
    until(lambda: not memory_files(), "nobody needs it")


def test_more_arrays_than_are_shared(executor: Executor) -> None:
    arrays = [np.full(40_000 + number, float(number)) for number in range(3 * SHARED_PARTS_MAX)]
    for _ in range(2):
        returned = executor.submit(lambda: [float(each[-1]) for each in arrays]).result()
        assert returned == [float(number) for number in range(3 * SHARED_PARTS_MAX)]


def test_read_only_transposed_and_plain_buffers(executor: Executor) -> None:
    fixed = np.arange(LARGE, dtype=float)
    fixed.flags.writeable = False
    turned = np.arange(LARGE, dtype=float).reshape(1000, 1000).T
    plain = memoryview(bytearray(8 * LARGE))
    del plain
    for _ in range(2):
        assert executor.submit(lambda: (fixed.flags.writeable, float(fixed[7]))).result() == (False, 7.0)
        assert executor.submit(lambda: (float(turned[1, 0]), float(turned[0, 1]))).result() == (1.0, 1000.0)


def test_a_killed_worker_takes_nothing_along(executor: Executor, tmp_path: Path) -> None:
    array = np.ones(LARGE)
    for number in range(3):
        started = tmp_path / str(number)
        hanging = executor.submit(hang, array, str(started))
        until(started.exists, "it computes")
        hanging.cancel(grace_s=0)
        assert executor.submit(total, array).result() == LARGE
        assert hanging.cancelled()
    del array
    until(lambda: not memory_files(), "nobody needs it")


def test_a_second_attempt_has_it_too(executor: Executor, tmp_path: Path) -> None:
    array = np.ones(LARGE)
    retrying = executor.with_limits(attempts_max=2)
    assert retrying.submit(die_once, array, str(tmp_path / "died")).result() == LARGE


def test_an_interrupted_submit_leaves_nothing(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    array, real_write, written = np.ones(LARGE), os.write, []

    def write_and_be_interrupted(descriptor: int, content: Any) -> int:
        if "killable-input" not in os.readlink(f"/proc/self/fd/{descriptor}"):
            return real_write(descriptor, content)
        written.append(real_write(descriptor, content[:1000]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(total, array)
    assert written == [1000] and memory_files() == []
    assert [executor.submit(total, array).result() for _ in range(3)] == 3 * [float(LARGE)]


def test_threads_that_submit_the_same_array(executor: Executor) -> None:
    array = np.ones(LARGE)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        calls = list(threads.map(lambda number: executor.submit(total, array, number), range(40)))
    assert [call.result() for call in calls] == 40 * [float(LARGE)]
    del calls
    assert len(memory_files()) <= 1


# ── programs of their own ──


def run(folder: Path, text: str) -> tuple[str, str]:
    """Run a script; return what it has printed, on stdout and stderr."""
    (folder / "script.py").write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_large_global_is_named_once_and_is_in_memory_once(tmp_path: Path) -> None:
    text = """
        import os
        import numpy as np
        from killable import Executor

        DF = np.ones(2_000_000)
        SMALL = np.ones(100_000)

        def helper(number):
            return float(DF[number] + SMALL[0])

        def use(number):
            return helper(number)

        def sizes():
            files = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
            return [each for each in files if "killable-input" in each]

        with Executor(2) as executor:
            calls = [executor.submit(use, number) for number in range(20)]
            print(len(sizes()) <= 2, {call.result() for call in calls})
            DF[7] = 5.0
            print(executor.submit(use, 7).result(), *executor.map(use, [7, 8]))
    """
    shown, warned = run(tmp_path, text)
    assert shown == "True {2.0}\n6.0 6.0 2.0\n"
    (line, code) = warned.splitlines()
    assert line.endswith(
        "script.py:20: UserWarning: each call of use brings 17 MB of globals and variables: DF (16 MB), SMALL (1 MB). "
        "Load them once for all workers: Executor(preload=...)"
    )
    assert "executor.submit(use, number)" in code


def test_a_large_global_stays_in_its_worker_until_the_program_changes_it(tmp_path: Path) -> None:
    text = """
        import warnings
        import numpy as np
        from killable import Executor

        warnings.simplefilter("ignore")
        COUNTS = np.zeros(2_000_000)
        NAMES = {number: f"the name of {number}" for number in range(50_000)}

        def count():
            COUNTS[0] += 1
            NAMES[0] += "!"
            return COUNTS.ctypes.data, float(COUNTS[0]), NAMES[0][-3:]

        def see():
            return float(COUNTS[0] + COUNTS[1]), NAMES[0]

        with Executor(1) as executor:
            (place, *first), (other, *second) = (executor.submit(count).result() for _ in range(2))
            print(place == other, first, second, float(COUNTS[0]))
            COUNTS[1] = 7.0
            print(executor.submit(see).result()[0])
            NAMES[0] = "another"
            print(executor.submit(see).result())
    """
    shown, _ = run(tmp_path, text)
    assert shown == "True [1.0, ' 0!'] [2.0, '0!!'] 0.0\n7.0\n(7.0, 'another')\n"


def test_an_array_that_changes_in_any_way_is_sent_as_it_is(tmp_path: Path) -> None:
    """Its content, its form, the object behind the name, and another name of the same object."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import gc, weakref
            import numpy
            from killable import Executor

            TABLE = numpy.zeros(1_000_000)

            def look():
                return TABLE.shape, TABLE.dtype.name, float(TABLE.reshape(-1)[0])

            def is_one_object():
                return TABLE is OTHER

            if __name__ == "__main__":
                with Executor(max_workers=1, spares=0) as executor:
                    for _ in range(3):
                        told = [executor.submit(look).result()]
                    TABLE[0] = 1
                    told.append(executor.submit(look).result())
                    TABLE.shape = 1000, 1000
                    told.append(executor.submit(look).result())
                    TABLE.dtype = "int64"
                    told.append(executor.submit(look).result()[:2])
                    old, TABLE = weakref.ref(TABLE), numpy.ones(1_000_000, "float32")
                    told.append(executor.submit(look).result())
                    gc.collect()
                    told.append(old() is None)
                    OTHER = TABLE
                    told.append(executor.submit(is_one_object).result())
                    told.append(executor.submit(look).result())
                    print(told)
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    million, square = (1_000_000,), (1000, 1000)
    told = [
        (million, "float64", 0.0), (million, "float64", 1.0), (square, "float64", 1.0), (square, "int64"),
        (million, "float32", 1.0), True, True, (million, "float32", 1.0),
    ]  # fmt: skip
    assert done.stdout == f"{told}\n", done.stderr


def test_large_arguments_are_no_reason_to_warn(tmp_path: Path) -> None:
    text = """
        import numpy as np
        from killable import Executor

        def total(array):
            return float(array.sum())

        array = np.ones(2_000_000)
        with Executor(1) as executor:
            print(executor.submit(total, array).result(), float(executor.submit(np.sum, array).result()))
    """
    assert run(tmp_path, text) == ("2000000.0 2000000.0\n", "")


def test_a_fork_of_the_program_has_copies_of_its_own(tmp_path: Path) -> None:
    text = """
        import os, sys
        import numpy as np
        from killable import Executor

        def total(array):
            return float(array.sum())

        def files():
            links = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
            return [each for each in links if "killable-input" in each or "userfaultfd" in each or "pagemap" in each]

        array = np.ones(1_000_000)
        with Executor(1) as executor:
            for _ in range(3):
                executor.submit(total, array).result()
            assert files()
            child = os.fork()
            if not child:
                print(files(), flush=True)
                array[5] = 3.0
                print(executor.submit(total, array).result(), flush=True)
                array[5] = 4.0
                print(executor.submit(total, array).result(), flush=True)
                executor.shutdown()
                os._exit(0)
            os.waitpid(child, 0)
            print(executor.submit(total, array).result())
            array[5] = 2.0
            print(executor.submit(total, array).result())
        print(files())
    """
    shown, _ = run(tmp_path, text)
    assert shown.splitlines() == ["[]", "1000002.0", "1000003.0", "1000000.0", "1000001.0", "[]"]


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE, (64, 64)", "RLIMIT_FSIZE, (1 << 20, -1)"])
def test_without_descriptors_or_memory_for_copies_tasks_bring_their_own(limit: str, tmp_path: Path) -> None:
    text = f"""
        import resource
        import numpy as np
        from killable import Executor

        with Executor(1) as executor:
            executor.submit(int).result()
            resource.setrlimit(resource.{limit})
            arrays = [np.full(500_000, number) for number in range(20)]
            calls = [executor.submit(np.sum, each) for each in arrays for _ in range(2)]
            print(int(sum(call.result() for call in calls)))
    """
    assert run(tmp_path, text) == (f"{2 * 500_000 * sum(range(20))}\n", "")


def test_small_tasks_pay_nothing(tmp_path: Path) -> None:
    text = """
        import sys
        from killable import Executor

        with Executor(1) as executor:
            executor.submit(len, b"x" * 1000).result()
            print({"killable.supervisor.linux.memory_writes", "ctypes"} & set(sys.modules))
    """
    assert run(tmp_path, text) == ("set()\n", "")
