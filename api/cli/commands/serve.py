"""`killable serve`: run a supervisor and its HTTP server in one process until asked to stop.

Runs in: supervisor (Linux only; elsewhere it says so, and nothing of the supervisor is imported).

    first Ctrl-C, SIGTERM or POST /v1/shutdown: refuse new jobs (503); let the others finish for `drain_s` (0 by
    default), then cancel each with its own grace; end the streams; exit 0
    second Ctrl-C or SIGTERM: SIGKILL to what is left
    SIGHUP: read the file of API keys again, open the audit log again, and roll the pools over to the code as it is now

HTTP requests are answered until the last job has ended, so that clients learn how their jobs end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from killable.api.cli import interrupts
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.explanation import spelling
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from killable.api.cli.server.configuration import InForce
    from killable.api.cli.server.http_server import HttpServer
    from killable.api.cli.server.listener import Listener
    from killable.api.cli.server.server_log import Sayings
    from killable.api.cli.server.service_manager import ServiceManager
    from killable.api.http.audit_log import AuditLog
    from killable.api.webhooks.deliveries import Deliveries
    from killable.supervisor.configuration.config import Config
    from killable.supervisor.models import JobType
    from killable.supervisor.records import PoolRecord
    from killable.supervisor.supervisor import Supervisor
    from killable.supervisor.telemetry.telemetry import Telemetry

LAST_WORDS_S = 5.0
"""Seconds after the last job's end for readers to receive their terminal events before they are disconnected."""


class NotHere(KillableError):
    """This machine does not run Linux."""

    code = "cannot_serve"
    exit_code = CommandExit.OS


def serve(
    target: str | None,
    config: Path | None,
    host: str | None,
    port: int | None,
    uds: str | None,
    journal: str | None,
    log_level: str | None,
    log_format: str | None,
    mcp: bool,
    ray: str | None,
    reloads: bool,
    as_json: bool,
) -> None:
    from killable.api.cli.server import server_log

    flags = {
        "server.host": host, "server.port": port, "server.uds": uds,
        "server.journal": journal, "server.log_level": log_level, "server.log_format": log_format,
        "server.mcp": mcp or None, "cluster.ray": ray,
    }  # fmt: skip
    with server_log.reporting(as_json, flags, config):
        require_linux("serve")
        _run(flags, config, target, reloads, as_json)


def _run(flags: dict[str, Any], config: Path | None, target: str | None, reloads: bool, as_json: bool) -> None:
    """Run a server, and tell the service manager why there is none."""
    from killable.api.cli.server.service_manager import ServiceManager

    manager = ServiceManager.of(os.environ)  # before any process of a pool could inherit its variables
    try:
        _run_told(manager, flags, config, target, reloads, as_json)
    except KillableError as error:
        manager.failed(error.message)
        raise


def _run_told(
    manager: ServiceManager,
    flags: dict[str, Any],
    config: Path | None,
    target: str | None,
    reloads: bool,
    as_json: bool,
) -> None:
    """Load the configuration, listen, and run the server until it is stopped."""
    from killable.api.cli.server import owner_socket, server_log, server_title
    from killable.supervisor.linux import own_interpreter

    own_interpreter.pause_collector()
    from killable.api.cli.server.audit_log_lifetime import audit_log_of
    from killable.api.cli.server.configuration import load
    from killable.api.cli.server.listener import CannotServe, listen, listen_for_operators
    from killable.api.cli.server.open_files import raise_file_limit
    from killable.api.cli.server.sighup import no_end_by_hang_up
    from killable.supervisor.linux import server_protection
    from killable.supervisor.telemetry import loop_turns

    server_title.take_title()
    server_protection.protect()
    in_force = load(config, os.environ, flags, target)
    fitted, lowered = _fitted(in_force.config, raise_file_limit())
    in_force = dataclasses.replace(in_force, config=fitted)
    server = fitted.server
    if server.mcp:
        from killable.api.cli.server.http_server import import_mcp

        import_mcp()
    if reloads:
        from killable.api.cli.server.code_watch import check_reload

        check_reload(fitted.cluster.ray)
    with (
        no_end_by_hang_up(),
        server_log.opened(server) as manager.crash_output,
        listen(server, in_force.config.sources.get("server.host", "")) as listener,
        owner_socket.claim(listener.url) or contextlib.nullcontext(),
        listen_for_operators(server) or contextlib.nullcontext() as operators,
    ):
        if lowered:
            logging.getLogger("killable.server").warning("connections_max_lowered", extra=lowered)
        try:
            with audit_log_of(server) as audit_log:
                main = _serve(in_force, listener, manager, audit_log, operators, reloads, as_json)
                interrupts.run(main, loop_turns.new_loop)
        except OSError as error:
            raise CannotServe(f"the server cannot run: {error}; `killable doctor` checks this machine") from error


def _fitted(config: Config, files: int) -> tuple[Config, dict[str, int]]:
    """Return the configuration with no more connections than the limit of open files allows, and what was lowered."""
    from killable.api.cli.server.open_files import fitting_connections

    wanted = config.server.connections_max
    workers = sum(pool.workers + pool.spares for pool in config.settings.pools)
    fitting = fitting_connections(wanted, files, workers)
    if fitting >= wanted:
        return config, {}
    server = dataclasses.replace(config.server, connections_max=fitting)
    return dataclasses.replace(config, server=server), {"from": wanted, "to": fitting, "open_files_max": files}


def require_linux(verb: str) -> None:
    """Raise NotHere on anything but Linux."""
    if sys.platform != "linux":
        raise NotHere(f"{verb} needs Linux (pidfds, subreapers); this is {sys.platform}")


async def _serve(
    in_force: InForce, listener: Listener, manager: ServiceManager, audit_log: AuditLog | None,
    operators: Listener | None, reloads: bool, as_json: bool,
) -> None:  # fmt: skip
    """Start, announce, wait until asked to stop, stop."""
    from killable.api.cli.server import announcement
    from killable.api.cli.server.cluster_head import supervisor_of
    from killable.api.cli.server.code_watch import ChangeNotes, CodeWatch
    from killable.api.cli.server.server_log import Sayings
    from killable.api.cli.server.service_status import tell_how_it_is
    from killable.api.cli.server.sighup import HangUp
    from killable.api.cli.server.telemetry_start import telemetry_of
    from killable.api.webhooks.server_webhooks import deliveries_of
    from killable.supervisor import event_loops
    from killable.supervisor.linux import adopted_zombies, own_interpreter
    from killable.supervisor.telemetry import loop_turns

    config = in_force.config
    stop, sayings = _Stop(), Sayings(config.server)
    telemetry = telemetry_of(config, os.environ)
    supervisor = supervisor_of(config, os.environ, None if telemetry is None else telemetry.observer())
    supervisor.check_types = functools.partial(_check, config)
    callbacks = deliveries_of(supervisor, config)
    adopts = adopted_zombies.is_reaper_of_strangers()
    reaper = adopted_zombies.StrangerReaper(asyncio.get_running_loop()) if adopts else None
    with manager, stop.watching_signals():
        try:
            manager.status("starting pools")
            if not await _started(supervisor, config, stop):
                return
            web = await _web(in_force, supervisor, listener, audit_log, operators, callbacks, telemetry)
            hang_up = HangUp(in_force, web, manager, supervisor, audit_log, callbacks)
            hang_up.start()
            watch = CodeWatch(supervisor, config.file) if reloads else None
            notes = None if reloads else ChangeNotes(supervisor)
            own_interpreter.freeze_collector()
            await announcement.print_to(supervisor, in_force, listener.url, as_json)
            loop_turns.forget()
            ready = asyncio.create_task(tell_how_it_is(supervisor, web, manager, listener.url))
            await _until_asked_to_stop(supervisor, web, manager, stop, sayings, config.server.drain_s)
            ready.cancel()
            if watch is not None:
                await watch.close()
            if notes is not None:
                notes.close()
            await _end_jobs(supervisor, manager, stop, sayings)
            hang_up.close()
            if callbacks is not None:
                await callbacks.close(LAST_WORDS_S)
            await web.close(LAST_WORDS_S)
            if supervisor.is_deposed:
                _raise_deposed()
        finally:
            await supervisor.close(grace_s=0)
            if telemetry is not None:
                await event_loops.in_thread(asyncio.get_running_loop(), telemetry.close)
            if reaper is not None:
                reaper.close()


async def _web(
    in_force: InForce, supervisor: Supervisor, listener: Listener, audit_log: AuditLog | None,
    operators: Listener | None, callbacks: Deliveries | None, telemetry: Telemetry | None,
) -> HttpServer:  # fmt: skip
    """Start the HTTP side, and what sends its metrics."""
    from killable.api.cli.server.http_server import HttpServer

    web = HttpServer(
        supervisor, in_force.config.server, listener, in_force.keys, audit_log, operators, supervisor.files, callbacks,
        telemetry,
    )  # fmt: skip
    await web.start()
    if telemetry is not None:
        telemetry.start(asyncio.get_running_loop(), _metrics_of(supervisor, web))
    return web


def _metrics_of(supervisor: Supervisor, web: HttpServer) -> Callable[[], Awaitable[Sequence[Metric]]]:
    """Return what reads all metrics of the server."""

    async def read() -> Sequence[Metric]:
        return [*await supervisor.scraping.families(), *web.metrics()]

    return read


def _raise_deposed() -> None:
    from killable.supervisor.cluster.carrier import Deposed

    raise Deposed("another server has taken the nodes of the cluster over: one server has them at a time")


class _Stop:
    """Records the signals received so far."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.asked_again = asyncio.Event()
        self.signal = ""

    @contextlib.contextmanager
    def watching_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM only set events: the end of the jobs must not be interrupted half-way."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._ask, number.name)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _ask(self, name: str) -> None:
        self.signal = name
        (self.asked_again if self.asked.is_set() else self.asked).set()


async def _started(supervisor: Supervisor, config: Config, stop: _Stop) -> bool:
    """Start the supervisor and check its pools; return False if asked to stop meanwhile. Raise ConfigError."""
    # The check precedes the recovery of the journal's jobs: a server that does not start must not have ended any.
    starting = asyncio.create_task(supervisor.start(lambda: _check_pools(supervisor, config)))
    await _first_of(_done(starting), stop.asked.wait())
    if not starting.done():
        starting.cancel()
        return False
    from killable.supervisor.configuration.config import ConfigError

    try:
        await starting
    except KillableError as error:
        if hasattr(type(error), "exit_code"):  # it is not the configuration that is at fault
            raise
        raise ConfigError(error.message, **error.facts) from error
    return True


async def _check_pools(supervisor: Supervisor, config: Config) -> None:
    """Raise ConfigError if no pool can start a job, or if there are settings for unknown job types; CannotServe if all
    that a pool lacks is the machine's to give.
    """
    _check(config, await supervisor.pools(), await supervisor.job_types())


def _check(config: Config, pools: Sequence[PoolRecord], types: Sequence[JobType]) -> None:
    from killable.api.cli.server.listener import CannotServe
    from killable.api.cli.server.pool_survey import unknown_types, without_types
    from killable.supervisor.configuration.config import ConfigError

    broken = [pool for pool in pools if pool.state == "broken"]
    if len(broken) == len(pools):
        causes = "\n".join(f"pool {pool.name} is broken: {pool.detail.rstrip()}" for pool in broken)
        why = f"no pool can start a job\n{causes}"
        raise CannotServe(why) if any(pool.is_short for pool in broken) else ConfigError(why)
    faults = list(without_types(config, pools, {job_type.pool for job_type in types}))
    if not broken and all(pool.workers_max for pool in pools):  # else some job types are not known
        faults += unknown_types(config, {job_type.name for job_type in types})
    if faults:
        raise ConfigError.of(faults)


async def _until_asked_to_stop(
    supervisor: Supervisor, web: HttpServer, manager: ServiceManager, stop: _Stop, sayings: Sayings, drain_s: float
) -> None:
    """Wait until the server is to stop: over HTTP, or by a signal and `drain_s` after it."""
    due = asyncio.create_task(supervisor.until_shutdown())
    await _first_of(_done(due), stop.asked.wait(), web.until_stopped())
    if stop.asked.is_set():
        manager.extend()
        left = await supervisor.shutdown(deadline_s=drain_s, reason=stop.signal)
        if not due.done() and left.deadline_s is not None:
            number = left.running + left.queued
            said = f"{spelling.counted(number, 'job')} may finish within {spelling.setting(drain_s)}"
            manager.status(said)
            sayings.say(f"{said}; Ctrl-C again kills at once", "draining_for", jobs=number, drain_s=drain_s)
        await _first_of(_done(due), stop.asked_again.wait())
    stop.asked.set()  # a signal from here on counts as the second one
    due.cancel()


async def _end_jobs(supervisor: Supervisor, manager: ServiceManager, stop: _Stop, sayings: Sayings) -> None:
    """End every job with its own grace; after a second signal, with none."""
    left = await supervisor.drained()
    number = 0 if supervisor.leaves_jobs else left.running + left.queued
    # Not at the begin of a drain: the manager would kill the server when its time for a stop is over.
    manager.stopping(f"ending {spelling.counted(number, 'job')}")
    closing = asyncio.create_task(supervisor.close())
    if number and not stop.asked_again.is_set():
        verb, whom = (
            ("is cancelled with its grace", "it") if number == 1 else ("are cancelled with their grace", "them")
        )
        said = f"{spelling.counted(number, 'job')} {verb}"
        sayings.say(f"{said}; Ctrl-C again kills {whom}", "ending_jobs", jobs=number, detail=verb)
    await _first_of(_done(closing), stop.asked_again.wait())
    if not closing.done():
        sayings.say("killing the jobs that are left", "ending_jobs", detail="they are killed: a second signal came")
        await supervisor.close(grace_s=0)
    await closing


async def _done(task: asyncio.Task[Any]) -> None:
    """Wait for a task without taking its result, and without cancelling it."""
    await asyncio.wait({task})


async def _first_of(*awaited: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of these has happened."""
    tasks = [asyncio.create_task(each) for each in awaited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
