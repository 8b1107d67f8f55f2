"""Programs of one file, and notebooks: their functions and classes are sent by value, and find their globals."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(folder: Path, text: str, *arguments: str) -> str:
    """Run a script; return what it has printed."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=240, cwd="/"
    )
    assert done.stderr == ""
    return done.stdout


def test_functions_and_classes_go_both_ways(tmp_path: Path) -> None:
    """Nothing is imported anew, so no `if __name__ == "__main__"` is needed."""
    text = """
        from dataclasses import dataclass
        from killable import Executor

        @dataclass
        class Point:
            x: int

        class Mine(Exception):
            pass

        SCALE = 3

        def scale(point):
            return Point(point.x * SCALE)

        def fail():
            raise Mine("mine")

        with Executor(max_workers=1) as executor:
            point = executor.submit(scale, Point(2)).result()
            assert type(point) is Point and point == Point(6)
            try:
                executor.submit(fail).result()
            except Mine as error:
                print(error)
    """
    assert run(tmp_path, text) == "mine\n"


def test_tracebacks_and_stacks_name_the_line_of_the_script(tmp_path: Path) -> None:
    text = """
        from killable import Executor, JobTimedOut
        from killable.supervisor.attempts import escalation

        escalation.DUMP_IN_GRACE_S_MAX = 15.0

        def fail():
            raise ValueError("no luck")  # here

        def native():
            sum(range(10**12))

        with Executor(max_workers=1) as executor:
            try:
                executor.submit(fail).result()
            except ValueError as error:
                print(error.__cause__)
            try:
                executor.with_limits(run_s=1, grace_s=20, ack_s=0.1).submit(native).result()
            except JobTimedOut as error:
                print(error.certificate["stack"])
    """
    told, script = run(tmp_path, text), tmp_path / "script.py"
    assert f'File "{script}", line 8, in fail\n    raise ValueError("no luck")  # here\n' in told, told
    assert f'File "{script}", line 11 in native' in told, told


def test_modules_beside_the_script_are_found(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    text = """
        import beside
        from killable import Executor

        with Executor(1) as executor:
            print(executor.submit(beside.double, 4).result())
    """
    assert run(tmp_path, text) == "8\n"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_calls_find_what_preload_and_initializer_have_set(start_method: str, tmp_path: Path) -> None:
    """What they bind, and what is in a dict that they fill."""
    text = """
        import os, sys
        from killable import Executor

        loaded = model = None
        found = {}

        def load():
            global loaded
            loaded = os.getpid()

        def initialize(name):
            global model, unknown_here
            model, unknown_here = name, os.getpid()
            found["name"] = name

        def see():
            return loaded, model, unknown_here, os.getpid(), found

        method = sys.argv[1]
        with Executor(1, start_method=method, preload=load, initializer=initialize, initargs=("bert",)) as executor:
            for _ in range(2):
                loader, name, initializer, worker, kept = executor.submit(see).result()
                assert worker not in (None, os.getpid()) and initializer == worker
                assert (loader == worker) is (method == "spawn") and loader != os.getpid()
                print(name, kept)
    """
    assert run(tmp_path, text, start_method) == 2 * "bert {'name': 'bert'}\n"


def test_a_worker_loads_once_and_hears_what_its_program_changes(tmp_path: Path) -> None:
    """`global model` in a call, the common way without an initializer; beside it a setting and a function that the
    program changes between two calls, as a notebook does.
    """
    text = """
        from killable import Executor

        model, factor, loads = None, 2, 0

        def convert(x):
            return str(x)

        def call(x):
            global model, loads
            if model is None:
                model, loads = "loaded", loads + 1
            return convert(x * factor), loads

        with Executor(1) as executor:
            print(*executor.submit(call, 1).result())
            factor = 5
            print(*executor.submit(call, 1).result())

            def convert(x):
                return f"<{x}>"

            print(*executor.submit(call, 1).result())
            print(*executor.submit(lambda: (model, factor)).result())
    """
    assert run(tmp_path, text) == "2 1\n5 1\n<5> 1\nloaded 5\n"


def test_a_crash_takes_what_was_set_along(tmp_path: Path) -> None:
    """The next worker is initialized again."""
    text = """
        import os
        from killable import Executor, WorkerCrashed

        pid = None

        def initialize():
            global pid
            pid = os.getpid()

        def is_mine():
            return pid == os.getpid()

        with Executor(1, initializer=initialize) as executor:
            assert executor.submit(is_mine).result()
            assert isinstance(executor.submit(os.abort).exception(), WorkerCrashed)
            print(executor.submit(is_mine).result())
    """
    assert run(tmp_path, text) == "True\n"
