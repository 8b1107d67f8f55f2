"""A user's folder with a file of jobs, the command in it, and servers that do not outlive their test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import own_jobs
from support.served import Command, Serve, Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `my_jobs.py` in it."""
    shutil.copy(own_jobs.__file__, tmp_path / "my_jobs.py")
    return tmp_path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers; none outlives the test."""
    started: list[Server] = []

    def start(*args: str, **options: Any) -> Server:
        started.append(Server(Command(tmp_path), *args, **options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def server(folder: Path, serve: Serve) -> Server:
    return serve("my_jobs.py", "--port", "0")


@pytest.fixture
def command(folder: Path, server: Server) -> Command:
    """The command, its server running."""
    return Command(folder, server.url)


@pytest.fixture
def gate(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "gate")
    return str(tmp_path / "gate")
