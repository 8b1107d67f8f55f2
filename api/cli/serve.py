"""`killable serve`: a supervisor and its HTTP server in one process, until told to stop.

Runs in: supervisor (Linux only; elsewhere it says so, and nothing of the supervisor is imported).

    first Ctrl-C, or SIGTERM: no new connections; every job ends with its own grace; streams reach their terminal events
    the second one: SIGKILL to what is left
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from killable.api.cli import exits, render
from killable.api.cli.options import Json
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.api.cli.listener import Listener
    from killable.supervisor.config import Config
    from killable.supervisor.service import Supervisor

LAST_WORDS_S = 5.0
"""After the last job has ended: for readers to take their terminal events before they are cut off."""
PAGE_JOBS = 200


class NotHere(KillableError):
    """This machine is no Linux."""

    code = "cannot_serve"
    exit_code = exits.Exit.OS


def serve(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE_OR_FILE",
            help="Jobs of your own; without it the pools of killable.toml, or the built-in ones.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Default: $KILLABLE_CONFIG, or ./killable.toml.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Default: 127.0.0.1. Any other needs an API key.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Default: 7833. 0 takes a free one.")] = None,
    uds: Annotated[
        str | None, typer.Option("--uds", metavar="PATH", help="A Unix socket (mode 0600) instead of host and port.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the server. Ctrl-C ends every job with its grace, then the server; a second one kills.

    Nothing that it started outlives it, even when it is killed itself.
    """
    with exits.reporting(as_json):
        if sys.platform != "linux":
            raise NotHere(f"serve needs Linux (pidfds, subreapers); this is {sys.platform}", code=NotHere.code)
        from killable.api.cli.listener import CannotServe, listen
        from killable.supervisor.config import load

        flags = {"server.host": host, "server.port": port, "server.uds": uds}
        in_force = load(config, os.environ, flags, target)
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        with listen(in_force.server) as listener:
            try:
                asyncio.run(_serve(in_force, listener, as_json))
            except OSError as error:
                raise CannotServe(f"the server cannot run: {error}; `killable doctor` looks at this machine") from error


async def _serve(config: Config, listener: Listener, as_json: bool) -> None:
    """Start, announce, wait for the signal, end."""
    from killable.api.cli import announcement
    from killable.api.cli.web import Web
    from killable.supervisor.service import Supervisor

    stop = _Stop()
    supervisor = Supervisor(config.settings)
    with stop.watching_signals():
        try:
            if not await _started(supervisor, config, stop):
                return
            web = Web(supervisor, config.server, listener)
            await web.start()
            await announcement.print_to(supervisor, listener.url, as_json)
            await web.until_stopped_or(stop.asked)
            web.stop_accepting()
            await _end_jobs(supervisor, stop)
            await web.close(LAST_WORDS_S)
        finally:
            await supervisor.close(grace_s=0)


class _Stop:
    """What the signals have asked for so far."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.asked_again = asyncio.Event()

    @contextlib.contextmanager
    def watching_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM only ask, until the end: what ends jobs must not be interrupted half-way."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ask)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _ask(self) -> None:
        (self.asked_again if self.asked.is_set() else self.asked).set()


async def _started(supervisor: Supervisor, config: Config, stop: _Stop) -> bool:
    """Start the supervisor and check what only its pools can tell; False: told to stop meanwhile. Raise ConfigError."""
    starting = asyncio.create_task(supervisor.start())
    await _first_of(starting, stop.asked)
    if not starting.done():
        starting.cancel()
        return False
    from killable.supervisor.config import ConfigError

    try:
        await starting
    except KillableError as error:
        raise ConfigError(error.message, code=ConfigError.code, **error.facts) from error
    await _check_pools(supervisor, config)
    return True


async def _check_pools(supervisor: Supervisor, config: Config) -> None:
    """Refuse a server in which nothing can start, and settings for job types that there are not."""
    from killable.supervisor.config import ConfigError, Fault

    pools = await supervisor.pools()
    broken = [pool for pool in pools if pool.state == "broken"]
    if len(broken) == len(pools):
        causes = "\n".join(f"pool {pool.name} is broken: {pool.detail.rstrip()}" for pool in broken)
        raise ConfigError(f"no pool can start a job\n{causes}", code=ConfigError.code)
    known = {job_type.name for job_type in await supervisor.job_types()}
    unknown = sorted(set(config.settings.jobs) - known)
    if unknown and not broken:  # with a broken pool nobody knows
        there_are = f"there is no such job type (there are {', '.join(sorted(known))})"
        raise ConfigError.of([Fault(f"jobs.{name}", there_are, "", str(config.file or "")) for name in unknown])


async def _end_jobs(supervisor: Supervisor, stop: _Stop) -> None:
    """End every job with its own grace; told again, with none."""
    stderr = exits.stderr_console()
    number = sum([1 async for _ in _active(supervisor)])
    if number:
        verb, whom = ("ends with its grace", "it") if number == 1 else ("end with their grace", "them")
        stderr.print(f"{render.counted(number, 'job')} {verb}; Ctrl-C again kills {whom}")
    closing = asyncio.create_task(supervisor.close())
    await _first_of(closing, stop.asked_again)
    if not closing.done():
        stderr.print("killing what is left")
        async for job_id in _active(supervisor):
            with contextlib.suppress(Refused):  # it ended this moment
                await supervisor.cancel(job_id, by="shutdown", grace_s=0, wait_s=0)
    await closing


async def _active(supervisor: Supervisor) -> AsyncIterator[str]:
    cursor: str | None = None
    while True:
        records, cursor = await supervisor.list(state="active", limit=PAGE_JOBS, cursor=cursor)
        for record in records:
            yield record.job_id
        if cursor is None:
            return


async def _first_of(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Wait until a task is done or an event is set."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
