"""The line of `systemctl status`: where the server listens, what it does, and what is wrong with it.

Runs in: supervisor, in its event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from killable.api.explanation import spelling

if TYPE_CHECKING:
    from killable.api.cli.server.http_server import HttpServer
    from killable.api.cli.server.service_manager import ServiceManager
    from killable.supervisor.supervisor import Supervisor

STATUS_EVERY_S = 5.0
"""Seconds between two looks; nothing is told unless it has changed."""


async def tell_how_it_is(supervisor: Supervisor, web: HttpServer, manager: ServiceManager, url: str) -> None:
    """Tell the manager that the server is ready once each pool has a worker, or is broken; then how it goes on."""
    if not manager.is_there:
        return
    manager.status(f"listening on {url}, starting workers")
    await supervisor.until_warm()
    told = await status_line(supervisor, web, url)
    manager.ready(told)
    while True:
        await asyncio.sleep(STATUS_EVERY_S)
        line = await status_line(supervisor, web, url)
        if line != told:
            manager.status(line)
            told = line


async def status_line(supervisor: Supervisor, web: HttpServer, url: str) -> str:
    jobs = await supervisor.drained()
    numbers = [f"{number} {how}" for number, how in ((jobs.running, "running"), (jobs.queued, "waiting")) if number]
    _, degraded = await web.readiness()
    said = ", ".join(degraded)
    counts = f"; {spelling.counted(jobs.running + jobs.queued, 'job')}: {', '.join(numbers)}" if numbers else ""
    return f"listening on {url}{counts}{'; degraded: ' if said else ''}{said}"
