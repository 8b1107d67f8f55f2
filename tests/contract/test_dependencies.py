"""An Executor imports no packages of the server, and uvicorn is one that our protocol was written for."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
import tomllib
from importlib.metadata import version

import uvicorn
from packaging.requirements import Requirement
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from contract.source import ROOT
from contract.test_requirements import installed
from killable.api.cli.server.bounded_protocol import BoundedProtocol

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

EXECUTOR = """
import json, sys

before = set(sys.modules)
from killable import Executor

def loaded():
    return sorted(set(sys.modules) - before)

with Executor(max_workers=1) as executor:
    there = executor.submit(lambda: sorted(__import__("sys").modules)).result(60)
    print(json.dumps([loaded(), there]))
"""
EXECUTORS = {"killable", "cloudpickle", "psutil"}

KNOWN_PARTS = {
    "2520fdf964b43e33": "0.42",
    "2a3b5d7312d15758": "0.45 to 0.49",
    "673783f881748a1c": "0.50 to 0.52",
    "8751b88edd329732": "0.53, 0.54",
}
"""What `known_parts` says of each uvicorn that is taken."""


def top(module: str) -> str:
    return module.partition(".")[0]


def test_an_executor_and_its_workers_import_nothing_of_the_server() -> None:
    done = subprocess.run([sys.executable, "-c", EXECUTOR], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for loaded in json.loads(done.stdout):
        foreign = {top(module) for module in loaded} - sys.stdlib_module_names
        servers = {name for name in foreign if installed().get(name)} - EXECUTORS
        assert servers - {"_distutils_hack", "__main__"} == set()
        assert not any(module.startswith("killable.api.") for module in loaded)
        assert "killable" in foreign


# ── uvicorn's protocol, of which ours is made ──


def known_parts() -> str:
    """Return a fingerprint of all that ours overrides, calls, or leaves to go on as it does."""
    of_connection = (
        "__init__", "connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete",
        "on_header", "on_body", "on_message_complete", "on_response_complete", "send_400_response", "shutdown",
        "_unset_keepalive_if_required",
    )  # fmt: skip
    parts = [getattr(HttpToolsProtocol, name) for name in of_connection]
    parts += [getattr(RequestResponseCycle, name) for name in ("run_asgi", "send", "receive")]
    lines = (line.partition("  #")[0].strip() for part in parts for line in inspect.getsource(part).splitlines())
    return hashlib.sha256("\n".join(line for line in lines if line and line[0] != "#").encode()).hexdigest()[:16]


def test_uvicorns_protocol_is_one_that_ours_was_written_for() -> None:
    """Its interface is private. Where this fails: read what has changed there, have tests/api/test_http_bounds.py and
    test_http_stream.py pass with it, then enter what it is now, and move the bound in pyproject.toml.
    """
    assert known_parts() in KNOWN_PARTS, f"uvicorn {version('uvicorn')} has {known_parts()}"


async def test_no_name_of_ours_is_one_of_uvicorns() -> None:
    """But for those that are meant."""

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    config = uvicorn.Config(nothing, ws="none", log_config=None)
    config.load()
    theirs = HttpToolsProtocol(config, ServerState(), {})
    meant = {
        "__init__", "__doc__", "__module__", "__slots__", "connection_made", "connection_lost", "data_received",
        "on_message_begin", "on_headers_complete", "on_header", "on_body", "on_message_complete",
        "on_response_complete", "send_400_response",
    }  # fmt: skip
    ours = {name for name in vars(BoundedProtocol) if not name.startswith("__")}
    assert ours & (set(dir(HttpToolsProtocol)) | set(vars(theirs))) == ours & meant
    assert meant <= set(vars(BoundedProtocol))
    used = {"transport", "connections", "loop", "cycle", "pipeline", "server_state"}
    assert used <= set(vars(theirs)) and theirs.cycle is None and not theirs.pipeline


def test_a_uvicorn_that_ends_streams_when_it_is_told_to_stop_is_not_taken() -> None:
    """0.43 and 0.44: their `receive` says then that the reader has left. Nor is one taken that nobody has looked at."""
    (line,) = (line for line in PROJECT["dependencies"] if line.startswith("uvicorn"))
    taken = Requirement(line).specifier
    assert taken.contains(version("uvicorn"))
    assert [each for each in ("0.43.0", "0.44.0", "0.99.0", "1.0.0") if taken.contains(each)] == []
