"""Programs of one file, and notebooks: their functions and classes are sent by value, and find their globals."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(folder: Path, text: str, *arguments: str, stderr: str = "") -> str:
    """Run a script; return what it has printed. `stderr`: what it prints there."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=240, cwd="/"
    )
    assert done.stderr == stderr
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

        escalation.DUMP_LATE_S_MAX = 15.0

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


def test_what_the_program_changes_replaces_what_a_worker_has(tmp_path: Path) -> None:
    """As in a notebook: cells that define functions, classes and data are run again, with other content."""
    text = """
        import functools
        from killable import Executor

        class Store:
            known = {}
            version = 1

        @functools.lru_cache
        def load(name):
            loads.append(name)
            return f"old {name}"

        loads, table = [], {"a": 1}

        def look(key):
            Store.known[key] = Store.known.get(key, 0) + 1
            return load(key), len(loads), Store.known[key], Store.version, table.setdefault("b", len(table)), table["a"]

        with Executor(1) as executor:
            print(*executor.submit(look, "x").result())
            print(*executor.submit(look, "x").result())

            @functools.lru_cache
            def load(name):
                loads.append(name)
                return f"new {name}"

            print(*executor.submit(look, "x").result())
            table["a"] = 2
            print(*executor.submit(look, "x").result())
            old = executor.submit(Store).result()

            class Store:
                known = {}
                version = 2

            print(*executor.submit(look, "x").result())
            print(isinstance(executor.submit(Store).result(), Store), isinstance(old, Store))
            Store.version = 3
            print(*executor.submit(look, "x").result())
    """
    told = ("old x 1 1 1 1 1", "old x 1 2 1 1 1", "new x 2 3 1 1 1", "new x 2 4 1 1 2", "new x 2 1 2 1 2")
    assert run(tmp_path, text).splitlines() == [*told, "True False", "new x 2 1 3 1 2"]


def test_a_cache_forgets_what_code_made_that_was_written_anew(tmp_path: Path) -> None:
    """And nothing else: what it has loaded is to last."""
    text = """
        import functools, time
        from killable import Executor

        def scale():
            return 1

        class Scale:
            shown = 0

            def of(self):
                return scale()

        @functools.lru_cache
        def scaled(n):
            return [n * each() for each in (lambda: Scale().of(),)][0]

        @functools.cache
        def loaded():
            return time.perf_counter_ns()

        class Model:
            @staticmethod
            @functools.cache
            def weights():
                return scaled(5)

        def weights():
            return Model.weights()

        with Executor(1) as executor:
            first = executor.submit(loaded).result()
            print(executor.submit(scaled, 3).result(), executor.submit(weights).result())
            Scale.shown = 1

            def scale():
                return 2

            print(executor.submit(scaled, 3).result(), executor.submit(weights).result())

            class Scale:
                shown = 1

                def of(self):
                    return 10 * scale()

            print(executor.submit(scaled, 3).result(), executor.submit(weights).result())
            print(executor.submit(loaded).result() == first)
    """
    assert run(tmp_path, text).splitlines() == ["3 5", "6 10", "60 100", "True"]


def test_what_changes_inside_of_a_class_or_a_value_reaches_a_worker(tmp_path: Path) -> None:
    text = """
        import abc, collections, enum
        from killable import Executor

        Point = collections.namedtuple("P", "x y")
        Point.scale = 1

        class Base(abc.ABC):
            pass

        class Mode(str):
            pass

        class Mark(enum.Enum):
            LOW = [1]

        mode = Mode("a")
        mode.speed = "slow"

        def look():
            return Point.scale, isinstance("a", Base), mode.speed, Mark.LOW.value

        with Executor(1) as executor:
            print(*executor.submit(look).result())
            Point.scale = 2
            Base.register(str)
            mode.speed = "fast"
            Mark.LOW.value.append(2)
            print(*executor.submit(look).result())
    """
    assert run(tmp_path, text).splitlines() == ["1 False slow [1]", "2 True fast [1, 2]"]


def test_a_name_that_is_defined_later_is_found(tmp_path: Path) -> None:
    """As in a notebook, where a function may be called before the cell that it needs was run."""
    text = """
        from killable import Executor

        def call():
            return helper()

        with Executor(1) as executor:
            print(type(executor.submit(call).exception()).__name__)

            def helper():
                return "now"

            print(executor.submit(call).result())
    """
    assert run(tmp_path, text) == "NameError\nnow\n"


def test_two_functions_that_use_the_same_globals_share_them(tmp_path: Path) -> None:
    """Whichever comes first, and with a class that only one of them names."""
    text = """
        from killable import Executor

        class Config:
            pass

        config, seen = Config(), {}
        config.level = 1

        class Service:
            def __init__(self):
                self.config = config

        service = Service()

        def write(level):
            config.level = level
            seen[level] = True

        def read():
            return service.config.level, list(seen), service.config is config

        with Executor(1) as executor:
            executor.submit(write, 7).result()
            print(*executor.submit(read).result())
            print(config.level, seen)
    """
    assert run(tmp_path, text) == "7 [7] True\n1 {}\n"


def test_what_comes_back_of_a_worker_that_has_another_class_by_that_name(tmp_path: Path) -> None:
    """A class that only the worker has goes by value; one that the program has replaced is not mistaken for the new."""
    text = """
        from killable import Executor

        class Old:
            def __init__(self, x=0):
                self.x = x

        kept = {}

        def keep():
            kept["old"] = Old(5)
            return kept["old"]

        def give():
            return kept["old"]

        def local():
            class Local:
                value = 3
            return Local()

        def bound():
            global Bound
            class Bound:
                value = 4
            return Bound()

        with Executor(1) as executor:
            first, FirstOld = executor.submit(keep).result(), Old
            assert type(first) is Old

            class Old:
                pass

            executor.submit(Old).result()
            again = executor.submit(give).result()
            print(type(again) is FirstOld, type(again) is Old, again.x)
            print(executor.submit(local).result().value, executor.submit(bound).result().value)
    """
    assert run(tmp_path, text) == "True False 5\n3 4\n"


def test_an_exception_of_any_constructor_arrives(tmp_path: Path) -> None:
    """With its attributes, its notes, the worker's traceback as cause, and what led to it as context."""
    text = """
        import threading
        from killable import Executor

        class Bad(Exception):
            __slots__ = ("slot",)

            def __init__(self, code, message, *, extra):
                super().__init__(f"{code}: {message}")
                self.code, self.extra, self.slot = code, extra, "s"
                self.lock = threading.Lock()  # left out, for it cannot be sent

        def fail():
            try:
                {}["missing"]
            except KeyError as error:
                bad = Bad(4, "no luck", extra=[1])
                bad.add_note("noted")
                raise bad from error

        def exit_group():
            raise BaseExceptionGroup("all", [Bad(5, "x", extra=None), KeyboardInterrupt()])

        with Executor(1) as executor:
            future = executor.submit(fail)
            try:
                future.result()
            except Bad as error:
                print(error, error.code, error.extra, error.slot, error.__notes__, hasattr(error, "lock"))
                print(type(error.__cause__).__name__, "in fail" in str(error.__cause__))
            print(future.error.code)
            group = executor.submit(exit_group).exception()
            print(type(group).__name__, [type(each).__name__ for each in group.exceptions])
    """
    assert run(tmp_path, text).splitlines() == [
        "4: no luck 4 [1] s ['noted'] False",
        "RemoteTraceback True",
        "exception",
        "BaseExceptionGroup ['Bad', 'KeyboardInterrupt']",
    ]


def test_an_exception_whose_class_forbids_attributes_arrives(tmp_path: Path) -> None:
    text = """
        import dataclasses
        from killable import Executor

        @dataclasses.dataclass(frozen=True)
        class Refusal(Exception):
            code: int

        def fail(code):
            error = Refusal(code)
            raise error from KeyError("why")

        with Executor(1) as executor:
            for error in [executor.submit(fail, 4).exception(), *executor.map(fail, [5], return_exceptions=True)]:
                print(repr(error), type(error.__cause__).__name__, repr(error.__context__))
    """
    assert run(tmp_path, text).splitlines() == [
        "Refusal(code=4) RemoteTraceback KeyError('why')",
        "Refusal(code=5) RemoteTraceback KeyError('why')",
    ]


def test_what_led_to_an_exception_is_its_context(tmp_path: Path) -> None:
    text = """
        from killable import Executor

        class Cause(Exception):
            def __init__(self, *, reason):
                self.reason = reason

        def fail():
            try:
                raise Cause(reason="deep")
            except Cause as error:
                raise ValueError("shallow") from error

        with Executor(1) as executor:
            error = executor.submit(fail).exception()
            print(repr(error), type(error.__context__) is Cause, error.__context__.reason)
    """
    assert run(tmp_path, text) == "ValueError('shallow') True deep\n"


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("use, lock", "Argument 1"),
        ("use, (x for x in [])", "Argument 1"),
        ("lambda: lock.locked(), ", ""),
        ("ask", "In ask the global 'connection'"),
        ("call_ask", "In ask the global 'connection'"),
        ("functools.partial(use, b=socket.socket())", "Argument 'b'"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(tmp_path: Path, argument: str, what: str) -> None:
    """A lock is refused as an argument, where two sides would have to share it; in a global each worker has its own."""
    text = f"""
        import functools, socket, threading
        from killable import Executor

        lock, connection = threading.Lock(), socket.socket()

        def use(a=None, b=None):
            pass

        def ask():
            return connection.fileno()

        def call_ask():
            return ask()

        with Executor(1) as executor:
            error = executor.submit({argument}).exception()
            print(*getattr(error, "__notes__", ()))
        connection.close()
    """
    told = f"{what} cannot be sent to a worker: make it there, in the function or an `initializer`.\n"
    assert run(tmp_path, text) == (told if what else "\n")


def test_what_of_multiprocessing_cannot_be_sent_is_refused_with_what_can(tmp_path: Path) -> None:
    text = """
        import multiprocessing
        from killable import Executor

        shared = multiprocessing.Value("i", 0)

        def use(number, value):
            pass

        try:
            Executor(1, initializer=use, initargs=(1, shared))
        except RuntimeError as error:
            print(*error.__notes__)
        with Executor(1) as executor:
            print(*executor.submit(use, 1, value=shared).exception().__notes__)
    """
    told = "cannot be sent to a worker: take one of a `multiprocessing.Manager()`.\n"
    assert run(tmp_path, text) == f"Argument 2 of the initializer {told}Argument 'value' {told}"


def test_an_executor_in_an_object_or_a_global_is_said_to_be_what_cannot_be_sent(tmp_path: Path) -> None:
    text = """
        from killable import Executor

        class Runner:
            def __init__(self):
                self.executor = Executor(1)

            def work(self):
                pass

        def submit_more():
            return runner.executor.submit(int)

        runner = Runner()
        with runner.executor as executor:
            error = executor.submit(runner.work).exception()
            print(error, *error.__notes__)
            print(*executor.submit(submit_more).exception().__notes__)
            print(executor.submit(print, executor.submit(int)).exception())
    """
    advice = "cannot be sent to a worker: make it there, in the function or an `initializer`."
    assert run(tmp_path, text).splitlines() == [
        "an Executor cannot be sent to a worker or pickled: it belongs to the program that made it"
        f" The object of the method work {advice}",
        f"In submit_more the global 'runner' {advice}",
        "a future cannot be sent to a worker or pickled: send its result",
    ]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_is_told_from_the_program_as_multiprocessing_tells_it(tmp_path: Path, start_method: str) -> None:
    text = f"""
        import logging
        import multiprocessing
        import os
        from killable import Executor

        def who():
            parent = multiprocessing.parent_process()
            parent.join(0)
            logging.warning("from it")
            return multiprocessing.current_process().name, parent.name, parent.pid, parent.is_alive()

        logging.basicConfig(format="%(processName)s %(message)s")
        with Executor(1, spares=0, start_method={start_method!r}) as executor:
            print(executor.submit(who).result() == ("Worker-1", "MainProcess", os.getpid(), True))
    """
    assert run(tmp_path, text, stderr="Worker-1 from it\n") == "True\n"
