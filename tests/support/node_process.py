"""A node in a process of its own, which is called over a Unix socket, or at a port, and outlives who has started it.

Runs in: a process of a test. argv: the path of the socket. The settings come pickled on stdin. Writes a line when it
can be called; ends when its node has ended.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import sys
from pathlib import Path

from killable.supervisor.cluster.node_host import NodeHost
from killable.supervisor.cluster.node_listener import NodeListener
from killable.supervisor.settings import Settings

HEAD = struct.Struct(">II")


def place_of(path: Path) -> Path:
    """Return the file with the port and the secret, beside the socket."""
    return path.with_suffix(".place")


async def run(path: str, settings: Settings) -> None:
    over = asyncio.Event()
    host = NodeHost(settings, on_end=over.set)
    await host.start()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method_size, size = HEAD.unpack(await reader.readexactly(HEAD.size))
            method = (await reader.readexactly(method_size)).decode()
            writer.write(await host.call(method, await reader.readexactly(size)))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # who has called is gone
        finally:
            writer.close()

    listener = NodeListener(host.call)
    place_of(Path(path)).write_bytes(pickle.dumps((await listener.start("127.0.0.1"), listener.secret)))
    server = await asyncio.start_unix_server(answer, path + ".new")
    os.rename(path + ".new", path)
    print("ready", flush=True)
    await over.wait()
    server.close()
    listener.close()


if __name__ == "__main__":
    given = pickle.load(sys.stdin.buffer)
    asyncio.run(run(sys.argv[1], given))
