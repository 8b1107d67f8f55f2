"""What a server does when the code of its jobs changes: it says so once, or with `--reload` loads it anew.

Runs in: supervisor, in its event loop; files are looked at in a thread, and watched by `watchfiles` in another.

    a submission ─► at most once in LOOK_S: has a file changed? ─► a warning in the log
    --reload: a change in a folder of the code ─► has a file changed, or is there one that the code lacked? ─► reload
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from killable.api.cli.display import console
from killable.api.cli.display.exit_codes import CommandExit
from killable.supervisor import event_loops
from killable.supervisor.linux.source_files import as_it_is
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.supervisor.supervisor import Supervisor
    from killable.workers.protocol.zygote_messages import SourceFile

LOOK_S = 1.0
"""Shortest time between two looks at the files."""
QUIET_MS = 100
"""How long nothing has to change before a reload: editors and version control write several files at once."""
QUIET_MAX_MS = 1000
"""The longest wait for that."""

logger = logging.getLogger("killable.server")


class CannotReload(KillableError):
    """`serve --reload` cannot be used here."""

    code = "cannot_serve"
    exit_code = CommandExit.CONFIGURATION


def check_reload(ray: str) -> None:
    """Raise CannotReload if `--reload` cannot be used: `ray` is the address of a cluster; empty: there is none."""
    if ray:
        raise CannotReload("--reload is for jobs on this machine: the nodes of a cluster load the code when they start")
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise CannotReload(f"--reload needs watchfiles: pip install 'killable[reload]' ({error})") from error


class ChangeNotes:
    """Says once when the jobs' code is not what was loaded: whoever submits gets the code from before."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._next = 0.0
        self._told: Sequence[str] = ()
        self._looking: asyncio.Task[None] | None = None
        supervisor.on_submission = self._on_submission

    def close(self) -> None:
        self._supervisor.on_submission = lambda: None
        if self._looking is not None:
            self._looking.cancel()

    def _on_submission(self) -> None:
        if self._loop.time() >= self._next:
            self._next = self._loop.time() + LOOK_S
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        files = await self._supervisor.changed_files()
        if files and files != self._told:
            advice = "the code from before runs: `killable reload` or SIGHUP rolls over to it"
            logger.warning("code_changed", extra={"files": " ".join(map(_short, files)), "advice": advice})
        self._told = files


class CodeWatch:
    """Loads the jobs' code anew whenever it has changed."""

    def __init__(self, supervisor: Supervisor, settings_file: Path | None) -> None:
        self._supervisor = supervisor
        self._settings = [] if settings_file is None else [os.path.abspath(settings_file)]
        self._seen: dict[str, SourceFile | None] = {}
        """Each file as it was when a reload was last begun for it, or when it was loaded."""
        self._failed = False
        self._watched: set[str] = set()
        self._stop = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        self._stop.set()
        for task in (self._rolling, self._watching):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})

    async def _watch(self) -> None:
        from watchfiles import awatch

        self._seen |= {path: as_it_is(path) for path in self._settings}
        while True:
            self._stop.clear()
            self._see_loaded()
            self._watched = folders = self._folders()
            # A change between the load and now is seen by the first look.
            await self._look(())
            changes = awatch(
                *folders, watch_filter=None, debounce=QUIET_MAX_MS, step=QUIET_MS, stop_event=self._stop,
                recursive=False, rust_timeout=1000, yield_on_timeout=False, raise_interrupt=False,
            )  # fmt: skip
            async for changed in changes:
                await self._look(path for _, path in changed)

    def _see_loaded(self) -> None:
        for file in self._supervisor.source_files():
            self._seen.setdefault(file.path, file)

    def _folders(self) -> set[str]:
        return {folder for path in self._seen if os.path.isdir(folder := os.path.dirname(path))}

    async def _look(self, touched: Iterable[str]) -> None:
        """Reload if a file is not as it was seen last, or if one has come that the code may have lacked."""
        lacked = {path for path in touched if self._failed and path.endswith(".py")} - self._seen.keys()
        paths = [*self._seen, *lacked]
        now = await event_loops.in_thread(asyncio.get_running_loop(), lambda: {path: as_it_is(path) for path in paths})
        changed = [path for path in paths if path in lacked or now[path] != self._seen[path]]
        self._seen |= {path: now[path] for path in changed}
        for path in changed:
            if path in self._settings:
                advice = "it is read at the start only: start the server again to use it"
                logger.warning("settings_changed", extra={"path": path, "advice": advice})
        if any(path not in self._settings for path in changed):
            if self._rolling is not None:
                self._rolling.cancel()
            self._rolling = asyncio.create_task(self._roll())

    async def _roll(self) -> None:
        try:
            await self._supervisor.reload()
            self._failed = False
        except Refused as refused:
            self._failed = True
            if "traceback" in refused.facts:
                console.stderr_console().print(refused.facts["traceback"].rstrip(), markup=False, highlight=False)
        self._see_loaded()
        if self._folders() - self._watched:
            self._stop.set()  # it is watched anew, with the folders that the code has now


def _short(path: str) -> str:
    """Return a path as people here would type it."""
    here = os.path.relpath(path)
    return path if here.startswith("..") else here
