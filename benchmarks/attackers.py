"""Attackers of a server, in a process of their own: `python attackers.py KIND PORT KEY`. They go on until killed.

Runs in: the attackers' process. Standard library only. One line with an answer's status code goes to stdout for each
request that is answered, or a dot for each connection that stands.

    bodies        three connections that post by turns: the largest legal bodies, deep and wide, and what makes
                  a pattern backtrack
    flood         submissions of long jobs with the highest priority, as fast as they are taken
    connections   5,000 connections: a third is silent, a third sends a header byte by byte, a third stays after a
                  request
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys

from killable.workers.runtime import process_setup

BODY_BYTES = (1 << 20) - 200
CONNECTIONS = 5000
CLIENTS = 3
SLOW_S = 0.5


def hostile_bodies() -> list[bytes]:
    """Return submissions of the largest legal size: many members, deep lists, wide lists; and one hostile text."""
    head, tail = b'{"type":"takes_members","input":{"data":{', b"}}}"
    members = b",".join(b'"%d":{"":0}' % number for number in range(BODY_BYTES // 15))
    depth = (BODY_BYTES - 100) // 2
    deep = b'"a":' + b"[" * depth + b"]" * depth
    wide = b'"a":[' + b"{}," * (BODY_BYTES // 3 - 40) + b"0]"
    pattern = json.dumps({"type": "takes_address", "input": {"address": "a" * 40 + "!"}}).encode()
    return [*(head + each + tail for each in (members, deep, wide)), pattern]


def request(key: str, body: bytes) -> bytes:
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def post_again_and_again(port: int, requests: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        for each in requests:
            try:
                writer.write(each)
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                print(head[9:12].decode(), flush=True)
            except (OSError, asyncio.IncompleteReadError):
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)


async def bodies(port: int, key: str) -> None:
    requests = [request(key, body) for body in hostile_bodies()]
    await asyncio.gather(*(post_again_and_again(port, requests) for _ in range(CLIENTS)))


async def flood(port: int, key: str) -> None:
    body = {"type": "wait_for_signal", "priority": 1000}
    await post_again_and_again(port, [request(key, json.dumps(body).encode())])


async def connections(port: int, _key: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    await asyncio.gather(*(_hold(port, number) for number in range(CONNECTIONS)))


async def _hold(port: int, number: int) -> None:
    kinds = (b"", b"GET /v1/jobs HTTP/1.1\r\nX-Slow: ", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    kind = kinds[number % len(kinds)]
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(kind)
            print(".", flush=True)
            while not writer.transport.is_closing():
                await asyncio.sleep(SLOW_S)
                if kind.endswith(b": "):
                    writer.write(b"x")
                elif kind:
                    writer.write(kind)
        except OSError:
            await asyncio.sleep(SLOW_S)


if __name__ == "__main__":
    process_setup.die_with(os.getppid())
    kind, port, key = sys.argv[1:]
    asyncio.run({"bodies": bodies, "flood": flood, "connections": connections}[kind](int(port), key))
