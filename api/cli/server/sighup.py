"""What SIGHUP and `POST /v1/reload` do to a server: it reads its keys, opens its logs and loads its jobs' code again;
settings it only compares. SIGHUP never ends one.

Runs in: supervisor, in its event loop; files are read in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from killable.api.cli import interrupts
from killable.api.cli.server.configuration import InForce, reread_keys
from killable.api.http.api_keys import ApiKey
from killable.api.webhooks.server_webhooks import senders_of
from killable.supervisor.models import DEFAULT_TENANT
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.api.cli.server.http_server import HttpServer
    from killable.api.cli.server.service_manager import ServiceManager
    from killable.api.http.audit_log import AuditLog
    from killable.api.webhooks.deliveries import Deliveries
    from killable.supervisor.supervisor import Supervisor

logger = logging.getLogger("killable.server")


@contextlib.contextmanager
def no_end_by_hang_up() -> Iterator[None]:
    """Let SIGHUP do nothing after the body, to the end of the process.

    Until then it has a handler (`interrupts.note_hang_ups`); after it SIG_IGN, as Python takes its handlers back before
    a process ends. In between there is always one or the other: asyncio would leave the signal to the system for a
    moment when it removes a handler.
    """
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class HangUp:
    """Reloads, one at a time; of signals that come meanwhile one reload follows. Code that still loads then is loaded
    anew.
    """

    def __init__(
        self, in_force: InForce, web: HttpServer, manager: ServiceManager, supervisor: Supervisor,
        audit_log: AuditLog | None = None, callbacks: Deliveries | None = None,
    ) -> None:  # fmt: skip
        self._in_force = in_force
        self._web = web
        self._manager = manager
        self._supervisor = supervisor
        self._audit_log = audit_log
        self._callbacks = callbacks
        self._asked = asyncio.Event()
        self._faults = {"keys": "", "secrets": "", "settings": ""}
        """Why what the files have now is not in force: a key that was revoked there may be valid here."""
        web.troubles += [partial(self._faults.__getitem__, what) for what in self._faults]
        web.server_files.append(self)
        self._reading = asyncio.Lock()
        """Held while files are read: what is read last is what is in force."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Reload at each SIGHUP from now on, and for those that came during the start: the files may have been read
        before.
        """
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, lambda number, frame: loop.call_soon_threadsafe(self._asked.set))
        if interrupts.hang_up_came():
            self._asked.set()
        self._task = asyncio.create_task(self._reload_when_asked())

    def close(self) -> None:
        """Reload no more."""
        interrupts.note_hang_ups()
        if self._task is not None:
            self._task.cancel()

    async def _reload_when_asked(self) -> None:
        self._warn(self._in_force.keys)
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._reload_all()
            except Exception as error:  # whatever it is: the next signal is heard
                logger.exception("not_reloaded", extra={"error": repr(error)})

    async def _reload_all(self) -> None:
        with self._manager.reloading():
            await self.read_again()
            await self._reload_pools()

    async def read_again(self) -> None:
        """Read keys and secrets, and open the audit log, as they are now. What has a fault stays as it was."""
        async with self._reading:
            if self._audit_log is not None:
                self._audit_log.reopen()
            await self._reload_keys()
            await self._reload_webhook_secrets()
            await self._compare_settings()

    def not_read(self) -> tuple[str, ...]:
        """Return what stays as it was, and why."""
        return tuple(filter(None, self._faults.values()))

    async def _reload_pools(self) -> None:
        """Roll the pools over to the code as it is now, until that is done, or asked for again."""
        rolling, asked = asyncio.create_task(self._supervisor.reload()), asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({rolling, asked}, return_when=asyncio.FIRST_COMPLETED)
            if rolling.done() and (error := rolling.exception()) is not None:
                is_told = isinstance(error, Refused) and "traceback" in error.facts  # where the code was loaded
                if not is_told:
                    logger.error("pools_not_reloaded", extra={"error": _why(error)})
        finally:
            rolling.cancel()  # it waits only: the reload itself goes on
            asked.cancel()

    async def _reload_keys(self) -> None:
        if not self._in_force.keys:
            logger.info("keys_not_reloaded", extra={"error": "this server was started without keys"})
            return
        try:
            # A folder on another machine may not answer: the jobs do not wait for it.
            keys = await asyncio.to_thread(reread_keys, self._in_force)
        except Exception as error:  # whatever it is: the server goes on with the keys that it has
            self._faults["keys"] = f"the keys stay as they are: {_why(error)}"
            self._say("keys_not_reloaded", logging.ERROR, error=self._faults["keys"])
            return
        self._faults["keys"] = ""
        came, gone = self._web.replace_keys(keys)
        self._say("keys_reloaded", logging.INFO, keys=len(keys), came=" ".join(came), gone=" ".join(gone))
        self._warn(keys)

    async def _reload_webhook_secrets(self) -> None:
        if self._callbacks is None:
            return
        try:
            senders = await asyncio.to_thread(senders_of, self._in_force.config)
        except Exception as error:
            self._faults["secrets"] = f"the secrets of webhooks stay as they are: {_why(error)}"
            self._say("webhook_secrets_not_reloaded", logging.ERROR, error=f"they stay as they are: {_why(error)}")
            return
        self._faults["secrets"] = ""
        self._callbacks.replace(senders)
        self._say("webhook_secrets_reloaded", logging.INFO, tenants=len(senders))

    async def _compare_settings(self) -> None:
        """Tell who has changed the settings, and takes a reload for what puts them in force."""
        file = self._in_force.config.file
        if file is None:
            return
        try:
            is_as_it_was = await asyncio.to_thread(content_of, file) == self._in_force.config.written
        except RuntimeError:  # no thread can be started: the next reload compares them
            return
        self._faults["settings"] = ""
        if not is_as_it_was:
            path = str(file.absolute())
            self._faults["settings"] = f"the settings stay as they are: a start reads {path}, a reload does not"
            advice = "it is read at the start only: start the server again to use it"
            logger.warning("settings_changed", extra={"path": path, "advice": advice})

    def _warn(self, keys: Collection[ApiKey]) -> None:
        warn_of_clear_text(key for key in keys if key is not self._in_force.own)
        warn_of_tables_without_key(self._in_force.config.settings.tenants, keys)

    def _say(self, event: str, level: int, **fields: Any) -> None:
        """Write a record to the log, and to the audit log."""
        logger.log(level, event, extra=fields)
        if self._audit_log is not None:
            self._audit_log.write(event, **fields)


def _why(error: BaseException) -> str:
    return error.message if isinstance(error, KillableError) else repr(error)


def content_of(file: Path) -> bytes | None:
    """Return what a file has; None: it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def warn_of_clear_text(keys: Iterable[ApiKey]) -> None:
    """Log which keys whoever reads the file has."""
    names = [key.name for key in keys if key.is_clear]
    if names:
        advice = "make others with `killable keys make`, which keeps only their digests"
        logger.warning("keys_in_clear_text", extra={"names": " ".join(names), "advice": advice})


def warn_of_tables_without_key(tables: Iterable[str], keys: Iterable[ApiKey]) -> None:
    """Log which tables `[tenants.NAME]` bound nobody, for no key has that name."""
    names = sorted({*tables} - {key.name for key in keys} - {DEFAULT_TENANT})
    if names:
        advice = "make a key of that name with `killable keys make`, or correct the name of the table"
        logger.warning("tenants_without_key", extra={"names": " ".join(names), "advice": advice})
