"""A program that has a driver, tells its pid, and does nothing more.

Runs in: a process of a test. argv: the folder of the nodes.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from killable.supervisor.cluster.driver_launcher import DriverLauncher


async def run(folder: Path) -> None:
    launcher = DriverLauncher("support.socket_carrier:SocketLauncher", (folder, None, ()), silent_s=600)
    await launcher.open()
    print(launcher.pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
