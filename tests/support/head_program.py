"""A head with a journal in a process of its own, over nodes in processes of theirs: a test kills it and starts another.

Runs in: a process of a test. argv: the folder of journal and nodes, the seconds of the lease, the names of the nodes.
WORKERS: of the pool `forking`, 2 by default. Prints a line of JSON with its address and the pids of the nodes that it
has started; ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path

from api_server import serve
from support import forking_jobs
from support.socket_carrier import SocketCarrier

from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

FORKING = PoolSpec(
    name="forking", modules=("support.forking_jobs",), folder=str(Path(forking_jobs.__file__).parent.parent), workers=2
)


async def run(folder: Path, lease_s: float, names: list[str]) -> None:
    carriers: list[SocketCarrier] = []

    def head(settings: Settings) -> Supervisor:
        carrier = SocketCarrier(folder, dataclasses.replace(settings, sweep=False), names)
        carriers.append(carrier)
        return Supervisor(settings, remote_pools=NodePools(settings, carrier, Times(lease_s, 0.25, 5.0)))

    forking = FORKING._replace(workers=int(os.environ.get("WORKERS", 2)))
    async with serve(engine=head, more=(forking,), journal=str(folder / "journal")) as server:
        pids = {name: process.pid for name, process in carriers[0].processes.items()}
        print(json.dumps({"url": str(server.client.base_url), "nodes": pids}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
