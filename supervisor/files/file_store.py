"""The uploaded files of a server: who has how many bytes of them, which jobs use them, and when each is removed.

Runs in: supervisor. What takes a disk's time is done in threads.

    uploaded, and no job has used it        removed after `file_unused_s`
    a job that uses it waits or runs        stays
    all jobs that use it have ended         goes with the last of their records, or earlier where its tenant needs room
    DELETE                                  refused while a job that uses it waits or runs
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from killable.supervisor import event_loops
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.files.file_users import FileUsers
from killable.supervisor.linux.files_folder import FilesFolder, UploadWriter, temporary_root
from killable.supervisor.models import NO_ROOM, NoRoom, StartRefused
from killable.supervisor.records import FileRecord
from killable.supervisor.settings import Settings
from killable.workers.authoring.units import size as size_text
from killable.workers.errors import Refused

T = TypeVar("T")

logger = logging.getLogger("killable.server")

KEPT = tuple(name for name in FileRecord._fields if name not in ("jobs", "active_jobs"))
"""What is written of a file beside it."""
UPLOADS_MAX, UPLOADS_OF_TENANT_MAX = 64, 32
"""Uploads at once: each takes half a MiB of memory and a thread."""


class Upload:
    """An upload under way: what it has been promised of its tenant's room, and what writes it."""

    def __init__(self, file_id: str, tenant: str, reserved: int, writer: UploadWriter) -> None:
        self.file_id = file_id
        self.tenant = tenant
        self.reserved = reserved
        self.writer = writer
        self.size = 0


class _Share:
    """What one tenant has."""

    def __init__(self) -> None:
        self.files: dict[str, FileRecord] = {}
        """The files that are whole, in the order in which they came."""
        self.bytes = 0
        """Of them."""
        self.reserved = 0
        """Bytes of uploads under way."""
        self.uploads = 0


class FileStore:
    """There is one for each server that keeps files."""

    def __init__(self, settings: Settings) -> None:
        self._bounds = settings
        root = settings.lasting_files_folder or temporary_root()
        is_shared = any(spec.user != "" for spec in settings.pools)
        self.folder = FilesFolder(root, lasts=bool(settings.journal), is_shared=is_shared)
        self._files: dict[str, FileRecord] = {}
        self._numbers: dict[str, int] = {}
        """In the same order: the place of each file in the list of all that have come."""
        self._shares: dict[str, _Share] = {}
        """By tenant; none is empty."""
        self._users = FileUsers()
        self._uploads: set[Upload] = set()
        self._number = 0
        self._clock: Clock | None = None
        self._unused: dict[str, float] = {}
        """When each file without a job came, or was last used, in the order of these times."""
        self._timer: Timer | None = None
        self.received_bytes = 0
        """Of all uploads, also of those that were refused."""
        self.sent_bytes = 0

    def note_sent(self, size: int) -> None:
        self.sent_bytes += size

    @property
    def file_bytes_max(self) -> int:
        return self._bounds.file_bytes_max

    @property
    def root(self) -> str:
        return self.folder.root

    async def open(self, clock: Clock) -> None:
        """Make the folder, and find what an earlier server has left. Raise StartRefused."""
        self._clock = clock
        try:
            known = await self._aside(self.folder.open)
        except OSError as error:
            kind = NoRoom if error.errno in NO_ROOM else StartRefused
            why = f"{error.strerror or error}: {error.filename or self.root}"
            raise kind(f"the folder of files cannot be used: {why}") from error
        for about in known:
            record = _record_of(about)
            if record is None:  # it stays where it is: another release may know it
                detail = "what is known of it is not what this release writes"
                logger.error("file_set_aside", extra={"path": self.folder.about(about["file_id"]), "detail": detail})
                continue
            self._add(record)
            self._unused[record.file_id] = clock.now()
        self._arm()

    async def close(self) -> None:
        self._disarm()
        self._clock = None
        for upload in list(self._uploads):
            await self.abort(upload)
        await self._aside(self.folder.close)

    # ── uploads ──

    async def begin(self, tenant: str, size: int | None) -> Upload:
        """Begin an upload of so many bytes at most; None: it is not known how many.

        Raise Refused: too_large, files_full, disk_full.
        """
        if size is not None and size > self._bounds.file_bytes_max:
            raise self.too_large()
        own = self._share(tenant).uploads
        if len(self._uploads) >= UPLOADS_MAX or own >= UPLOADS_OF_TENANT_MAX:
            raise Refused(f"{own} uploads of {tenant} are under way, {len(self._uploads)} in all", code="busy")
        reserved = size or 0
        self._check_room(tenant, reserved)
        try:
            free = await self._aside(self.folder.free_bytes)
            if reserved > free:
                raise Refused(
                    f"the disk has room for {size_text(free)}, not for {size_text(reserved)}", code="disk_full"
                )
            self._check_room(tenant, reserved)  # again: others may have come meanwhile
            file_id = f"file-{uuid.uuid4().hex}"
            upload = Upload(file_id, tenant, reserved, self.folder.new_upload(file_id))
        except OSError as error:
            raise disk_full(error) from error
        self._uploads.add(upload)
        share = self._shares.setdefault(tenant, _Share())
        share.reserved += reserved
        share.uploads += 1
        return upload

    def expect(self, upload: Upload, size: int) -> None:
        """Take note that so many bytes more have come. Raise Refused: too_large, files_full."""
        upload.size += size
        if upload.size > self._bounds.file_bytes_max:
            raise self.too_large()
        more = upload.size - upload.reserved
        if more > 0:
            self._check_room(upload.tenant, more, files=0)
            upload.reserved += more
            self._shares[upload.tenant].reserved += more

    async def finish(self, upload: Upload, name: str, content_type: str) -> FileRecord:
        """Make a whole upload a file. Raise Refused: disk_full."""
        assert self._clock is not None
        found = upload.writer.digest()
        record = FileRecord(
            upload.file_id, name, found.size, found.sha256, content_type, upload.tenant, self._clock.wall()
        )
        about = {name: getattr(record, name) for name in KEPT}
        try:
            await self._aside(partial(self.folder.keep, upload.writer, about))
        except OSError as error:
            raise disk_full(error) from error
        finally:
            self._forget(upload)
        self._add(record)
        self._unused[record.file_id] = self._clock.now()
        self._arm()
        return record

    async def abort(self, upload: Upload) -> None:
        """Leave nothing of an upload; may be repeated, and after `finish` does nothing."""
        if upload in self._uploads:
            self._forget(upload)
            await self._aside(upload.writer.abort)

    def _forget(self, upload: Upload) -> None:
        self._uploads.discard(upload)
        share = self._shares[upload.tenant]
        share.reserved -= upload.reserved
        share.uploads -= 1
        self._drop_if_empty(upload.tenant)

    def _share(self, tenant: str) -> _Share:
        return self._shares.get(tenant) or _Share()

    def _drop_if_empty(self, tenant: str) -> None:
        share = self._shares[tenant]
        if not (share.files or share.uploads):
            del self._shares[tenant]

    def _add(self, record: FileRecord) -> None:
        self._number += 1
        self._files[record.file_id], self._numbers[record.file_id] = record, self._number
        share = self._shares.setdefault(record.tenant, _Share())
        share.files[record.file_id] = record
        share.bytes += record.size

    def too_large(self) -> Refused:
        most = self._bounds.file_bytes_max
        return Refused(
            f"a file may have at most {size_text(most)} (server.file_bytes_max)", code="too_large", limit_bytes=most
        )

    def _check_room(self, tenant: str, size: int, *, files: int = 1) -> None:
        """Make room for a tenant's file. Raise Refused: files_full."""
        bytes_max, files_max = self._bounds.files_bytes_max, self._bounds.files_max
        while True:
            share = self._share(tenant)
            used = share.bytes + share.reserved
            is_full = len(share.files) + share.uploads + files > files_max
            if not is_full and used + size <= bytes_max:
                return
            victim = next(filter(self._users.only_ended, share.files), None)
            if victim is None:
                bound = f"{files_max} files (server.files_max)"
                if not is_full:
                    bound = f"{size_text(bytes_max)} in uploaded files (server.files_bytes_max)"
                raise Refused(
                    f"{tenant} may have {bound}, and all of them wait for a job or are used by one: delete some",
                    code="files_full", tenant=tenant, files=len(share.files), used_bytes=used,
                )  # fmt: skip
            self._remove(victim)

    # ── files ──

    def get(self, file_id: str, tenant: str | None = None) -> FileRecord:
        """Return a file, with `tenant` only one of its own. Raise Refused: unknown_file."""
        record = self._files.get(file_id)
        if record is None or tenant not in (None, record.tenant):
            raise Refused(
                f"there is no file {file_id}: it was never uploaded, or was removed: with the last job that used it, "
                "or because none did for a while (server.file_unused_s)",
                code="unknown_file", file_id=file_id,
            )  # fmt: skip
        jobs, active = self._users.counts(file_id)
        return record._replace(jobs=jobs, active_jobs=active)

    def check_visible(self, file_id: str, tenant: str | None) -> None:
        """Raise Refused: unknown_file, for a file that is there and of another tenant than this."""
        if file_id in self._files:
            self.get(file_id, tenant)

    def page(
        self, tenant: str | None = None, *, limit: int, before: int | None = None
    ) -> tuple[Sequence[FileRecord], int | None]:
        """Return the latest files, or those of a tenant, and where the next page begins; None: there is none."""
        known = self._files if tenant is None else self._share(tenant).files
        found: list[FileRecord] = []
        for file_id in reversed(known):
            if before is not None and self._numbers[file_id] >= before:
                continue
            if len(found) == limit:
                return found, self._numbers[found[-1].file_id]
            found.append(self.get(file_id))
        return found, None

    def path_of(self, file_id: str) -> str:
        return self.folder.path_of(file_id, self._files[file_id].name)

    def delete(self, file_id: str, tenant: str | None = None) -> FileRecord:
        """Remove a file. Raise Refused: unknown_file, file_in_use."""
        record = self.get(file_id, tenant)
        if record.active_jobs:
            raise Refused(
                f"{file_id} is used by {record.active_jobs} job(s) that wait or run", code="file_in_use",
                file_id=file_id, active_jobs=record.active_jobs,
            )  # fmt: skip
        self._remove(file_id)
        return record

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def bytes(self) -> int:
        return sum(share.bytes for share in self._shares.values())

    # ── jobs ──

    def use(self, job_id: str, file_ids: Iterable[str]) -> Mapping[str, str]:
        """Keep these files for a job; return their paths. Files that are not there are left out."""
        there = [file_id for file_id in file_ids if file_id in self._files]
        self._users.begin(job_id, there)
        for file_id in there:
            self._unused.pop(file_id, None)
        return {file_id: self.path_of(file_id) for file_id in there}

    def job_ended(self, job_id: str) -> None:
        """Take note that a job needs its files no more. Its record holds them."""
        self._users.end(job_id)

    def job_dropped(self, job_id: str, files_folder: str) -> None:
        """Remove the files that a job has saved, and those that no other job uses: its record is gone."""
        for file_id in self._users.drop(job_id):
            if file_id in self._files:
                self._remove(file_id)
        if files_folder:
            self.remove_saved(files_folder)

    def withdrawn(self, job_id: str) -> None:
        """Forget a job that was not accepted: its files wait for another one."""
        assert self._clock is not None
        for file_id in self._users.drop(job_id):
            if file_id in self._files:  # it may have been deleted meanwhile, if the job had been cancelled
                self._unused[file_id] = self._clock.now()
        self._arm()

    def saved_folder(self, job_id: str, attempt: int) -> str:
        return self.folder.saved(job_id, attempt)

    def remove_saved(self, folder: str) -> None:
        self._start_aside(partial(self.folder.remove_saved, folder))

    async def keep_saved_only(self, folders: Iterable[str]) -> None:
        """Remove what jobs have saved that are not restored."""
        await self._aside(partial(self.folder.remove_other_saved, set(folders)))

    # ── time ──

    def _arm(self) -> None:
        if self._clock is not None and self._timer is None and self._unused:
            due = next(iter(self._unused.values())) + self._bounds.file_unused_s
            self._timer = self._clock.call_at(due, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        assert self._clock is not None
        self._timer, now = None, self._clock.now()
        for file_id, since in list(self._unused.items()):
            if now < since + self._bounds.file_unused_s:
                break
            self._remove(file_id)
        self._arm()

    def _remove(self, file_id: str) -> None:
        record = self._files.pop(file_id)
        del self._numbers[file_id]
        share = self._shares[record.tenant]
        del share.files[file_id]
        share.bytes -= record.size
        self._drop_if_empty(record.tenant)
        self._unused.pop(file_id, None)
        self._users.forget(file_id)
        self._start_aside(partial(self.folder.remove, file_id))

    def _start_aside(self, act: Callable[[], object]) -> None:
        try:
            event_loops.in_bounded_threads(asyncio.get_running_loop(), act)
        except RuntimeError:  # no thread can be started: what stays is removed at the next start
            pass

    async def _aside(self, act: Callable[[], T]) -> T:
        try:
            return await event_loops.in_thread(asyncio.get_running_loop(), act)
        except RuntimeError as error:
            raise Refused(f"no thread can be started: {error}", code="busy") from error


def _record_of(about: Mapping[str, Any]) -> FileRecord | None:
    """Return the record of a file, without what a later release knows of it; None if something is missing."""
    kept = {name: about[name] for name in KEPT if name in about}
    is_whole = all(isinstance(value, int if name == "size" else str) for name, value in kept.items())
    return FileRecord(**kept) if is_whole and len(kept) == len(KEPT) else None


def disk_full(error: OSError) -> Refused:
    return Refused(f"the file cannot be written: {error.strerror or error}", code="disk_full", errno=error.errno)
