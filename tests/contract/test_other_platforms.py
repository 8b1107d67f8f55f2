"""Client and command on macOS and Windows: without what these lack, and without the server's own packages."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import pytest
from support.scripted_server import ID, as_json, scripted

ELSEWHERE = '''
# At home on each platform; parts of them, imported here, ask which one it is.
import asyncio, concurrent.futures.process, os, select, signal, sys

import anyio._backends._asyncio, click, httpx, httpx_sse, psutil, pydantic.types, rich.console, rich.table, zoneinfo

PLATFORM = sys.argv[1]
MISSING = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty"} if PLATFORM == "win32" else set()
FOREIGN = {"killable.supervisor", "fastapi", "starlette", "uvicorn", "uvloop"}


class Nothing:
    """Finds nothing where there is nothing, whatever this machine has."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in MISSING | FOREIGN or name.startswith(tuple(f"{each}." for each in FOREIGN)):
            raise ModuleNotFoundError(f"{name} was imported, which is not there on {PLATFORM}", name=name)


for name in [name for name in sys.modules if name in MISSING or name.partition(".")[0] in FOREIGN]:
    del sys.modules[name]
sys.meta_path.insert(0, Nothing)
sys.platform = PLATFORM
lacking = {os: "memfd_create pidfd_open sched_getaffinity sched_setaffinity eventfd posix_fadvise pipe2"}
lacking[select] = "epoll"
lacking[signal] = "pidfd_send_signal sigtimedwait sigwaitinfo"
if PLATFORM == "win32":
    lacking[os] += " fork forkpty killpg getuid geteuid getgid setsid setpgid wait3 wait4 waitid mkfifo WNOHANG"
    lacking[os] += " set_blocking getpgid getsid setpriority getloadavg uname nice register_at_fork"
    lacking[select] += " poll"
    lacking[signal] += " SIGKILL SIGCHLD SIGHUP SIGUSR1 SIGUSR2 SIGSTOP SIGCONT SIGALRM SIGPIPE SIGQUIT SIGTSTP"
    lacking[signal] += " setitimer pthread_sigmask pthread_kill sigwait sigpending alarm pause siginterrupt"
for module, names in lacking.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

import killable

for name in killable.__all__:
    if name not in ("AsyncStream", "Executor", "JobFuture", "Stream", "stopped"):
        getattr(killable, name)
'''


def run(platform: str, program: str, url: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE + textwrap.dedent(program), platform],
        capture_output=True, text=True, timeout=60, env=os.environ | {"KILLABLE_URL": url},
    )  # fmt: skip


@pytest.fixture(params=["win32", "darwin"])
def platform(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@functools.cache
def raised_by(platform: str) -> dict[str, str]:
    """Return what statements raise there; one interpreter runs them all."""
    program = """
    for each in ("import fcntl", "import killable.supervisor.supervisor", "import fastapi.routing", "os.pidfd_open",
                 "from killable import Executor", "import json"):
        try:
            exec(each)
        except Exception as error:
            print(each, f"{type(error).__name__}: {error}", sep=": ")
    """
    done = run(platform, program)
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_what_is_missing_there_is_missing_here() -> None:
    raised = {each: text for each, text in raised_by("win32").items() if each != "from killable import Executor"}
    assert list(raised) == [
        "import fcntl",
        "import killable.supervisor.supervisor",
        "import fastapi.routing",
        "os.pidfd_open",
    ]
    assert raised.pop("os.pidfd_open").endswith("no attribute 'pidfd_open'")
    assert all(text.endswith("which is not there on win32") for text in raised.values())


def test_the_executor_says_that_it_needs_linux(platform: str) -> None:
    said = raised_by(platform)["from killable import Executor"]
    assert said.startswith("ImportError: killable.Executor needs Linux")


def test_the_clients_work(platform: str) -> None:
    program = """
    async def ask():
        async with killable.AsyncClient() as client:
            return await client.info()

    with killable.Client() as client:
        print(client.info(), asyncio.run(ask()))
    """
    with scripted() as script:
        script.on("GET", "/v1/info", as_json({}))
        done = run(platform, program, script.url)
    assert (done.returncode, done.stdout) == (0, "{} {}\n"), done.stderr


def test_the_command_works_and_serve_says_that_it_needs_linux(platform: str) -> None:
    program = """
    import killable.api.cli

    for arguments in (["ps", "--json"], ["submit", "split", "-i", "text=x", "--detach"], ["bench"], ["serve"]):
        sys.argv = ["killable", *arguments]
        try:
            killable.api.cli.main()
        except SystemExit as end:
            print(arguments[0], end.code)
    """
    with scripted() as script:
        script.on("GET", "/v1/jobs", as_json({"jobs": [], "next_cursor": None}))
        script.on("GET", "/v1/workers", as_json({"workers": []}))
        script.on("POST", "/v1/jobs", as_json({"job_id": ID}, 202))
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        types = [{"name": "split", "input_schema": schema, "available": True}]
        script.on("GET", "/v1/job-types", as_json({"job_types": types}))
        done = run(platform, program, script.url)
    codes = [line for line in done.stdout.splitlines() if line.startswith(("ps ", "submit ", "bench ", "serve "))]
    assert (done.returncode, codes) == (0, ["ps 0", "submit 0", "bench 71", "serve 71"]), done.stderr
    assert ID in done.stdout
    assert done.stderr.splitlines()[-1].startswith("killable: serve needs Linux")
