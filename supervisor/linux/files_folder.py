"""The folder of a server's files: made at its start, locked while it runs, and what a dead server left in it removed.

Runs in: supervisor; all that takes a disk's time in a thread. Behind `ports`.

    incoming/ID            an upload that is not whole
    uploaded/ID/NAME       a whole one; jobs read it, and cannot list the folder above
    about/ID.json          what is known of it
    staging/WORKER/        files that the jobs of a worker have just saved
    saved/JOB.ATTEMPT/     files that a job has saved
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from killable.supervisor.linux.instance_id import InstanceId
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.zygote_messages import STAGING, UPLOADED
from killable.workers.runtime.tmp_removal import remove_tree

INCOMING, ABOUT, SAVED = "incoming", "about", "saved"
_LOCK = "lock"


class Digest(NamedTuple):
    """What an upload has come to."""

    size: int
    sha256: str


def temporary_root() -> str:
    """Return the path of a folder that the next server removes if this one is killed (`orphan_cleanup`)."""
    random = os.urandom(4).hex()
    return os.path.join(tempfile.gettempdir(), InstanceId.own().folder_prefix + random)


class FilesFolder:
    """One server's folder. It belongs to one server at a time."""

    def __init__(self, root: str, *, lasts: bool, is_shared: bool) -> None:
        """`lasts`: what is in it survives the server. `is_shared`: workers are of other users than the server."""
        self.root = root
        self._lasts = lasts
        self._is_shared = is_shared
        self._lock = -1

    def open(self) -> list[dict[str, Any]]:
        """Make and lock the folder, and remove what is of no use. Return what is known of the uploaded files.

        Raise OSError, with EBUSY if another server has it.
        """
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self._lock = os.open(os.path.join(self.root, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = -1
            raise OSError(errno.EBUSY, "another server keeps its files there", self.root) from error
        self._check_access()
        gone = (INCOMING, STAGING) if self._lasts else (INCOMING, STAGING, UPLOADED, ABOUT, SAVED)
        for name in gone:
            remove_tree(self._path(name))
        for name in (INCOMING, UPLOADED, ABOUT, STAGING, SAVED):
            os.makedirs(self._path(name), mode=0o700, exist_ok=True)
        if self._is_shared:  # they find a file, or their own folder, by its name
            for path in (self.root, self._path(UPLOADED), self._path(STAGING)):
                os.chmod(path, 0o711)
        return list(self._known())

    def _check_access(self) -> None:
        """Raise PermissionError for a part that this user may not write to, as after a restore by another user."""
        for name in (INCOMING, UPLOADED, ABOUT, STAGING, SAVED):
            _check_mode(self._path(name), os.R_OK | os.W_OK | os.X_OK)

    def close(self) -> None:
        """Give the folder up; what does not last is removed."""
        if self._lock < 0:
            return
        if not self._lasts:
            remove_tree(self.root)
        os.close(self._lock)
        self._lock = -1

    def _path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def _known(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of each file that is whole, and remove the others. Raise OSError for one that cannot be
        looked at: it may be whole.

        Of a file that another release has noted in another form only its id is known: it stays where it is.
        """
        known = set()
        for name in os.listdir(self._path(ABOUT)):
            file_id = name.removesuffix(".json")
            try:
                with open(self._path(ABOUT, name), "rb") as file:
                    about: dict[str, Any] = json.load(file)
                if name.endswith(".json") and not _is_known_form(about):
                    known.add(file_id)
                    yield {"file_id": file_id}
                    continue
                size = os.lstat(self.path_of(file_id, about["name"])).st_size
                if (about["file_id"], about["size"]) != (file_id, size):
                    raise ValueError(name)
                _check_mode(self.path_of(file_id, about["name"]), os.R_OK)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
                with suppress(OSError):
                    os.unlink(self._path(ABOUT, name))
                continue
            known.add(file_id)
            yield about
        for file_id in os.listdir(self._path(UPLOADED)):
            if file_id not in known:
                remove_tree(self._path(UPLOADED, file_id))

    # ── uploaded files ──

    def about(self, file_id: str) -> str:
        """Return where it is written what is known of an uploaded file."""
        return self._path(ABOUT, f"{file_id}.json")

    def path_of(self, file_id: str, name: str) -> str:
        return self._path(UPLOADED, file_id, name)

    def free_bytes(self) -> int:
        """Return how many bytes uploads may still take of the disk. Raise OSError."""
        return _room(os.statvfs(self.root))

    def new_upload(self, file_id: str) -> UploadWriter:
        """Begin a file. Raise OSError."""
        return UploadWriter(self._path(INCOMING, file_id))

    def keep(self, upload: UploadWriter, about: dict[str, Any]) -> None:
        """Make a whole upload a file under its name. Raise OSError, leaving nothing."""
        file_id: str = about["file_id"]
        folder, known = self._path(UPLOADED, file_id), self.about(file_id)
        try:
            upload.close(0o444 if self._is_shared else 0o400, sync=self._lasts)
            os.mkdir(folder, 0o700)
            os.rename(upload.path, os.path.join(folder, about["name"]))
            if self._is_shared:
                os.chmod(folder, 0o711)
            with open(f"{known}.part", "wb") as file:
                file.write(json.dumps(about).encode())
                file.flush()
                if self._lasts:
                    os.fsync(file.fileno())
            os.rename(f"{known}.part", known)
            if self._lasts:
                for path in (self._path(UPLOADED), folder, self._path(ABOUT)):
                    _sync_folder(path)
        except OSError:
            upload.abort()
            with suppress(OSError):
                os.unlink(f"{known}.part")
            self.remove(file_id)
            raise

    def remove(self, file_id: str) -> None:
        """Remove an uploaded file. What a job has open stays readable to it."""
        with suppress(OSError):
            os.unlink(self.about(file_id))
        remove_tree(self._path(UPLOADED, file_id))

    # ── saved files ──

    def saved(self, job_id: str, attempt: int) -> str:
        """Return where the files of an attempt are."""
        return self._path(SAVED, f"{job_id}.{attempt}")

    def remove_saved(self, folder: str) -> None:
        remove_tree(folder)

    def remove_other_saved(self, kept: set[str]) -> None:
        """Remove the saved files of jobs that nobody knows any more."""
        for name in os.listdir(self._path(SAVED)):
            if self._path(SAVED, name) not in kept:
                remove_tree(self._path(SAVED, name))


LEFT_BYTES, LEFT_SHARE = 64 << 20, 16
"""What uploads leave of a disk, at most a sixteenth of it: the journal may be there, and without room for it no job of
anybody starts.
"""


class UploadWriter:
    """Writes one upload, in a thread: never two calls at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Raise OSError: the disk is broken, or full but for what is left to others."""
        if _room(os.fstatvfs(self._descriptor)) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._digest.update(data)
        self.size += len(data)

    def digest(self) -> Digest:
        return Digest(self.size, self._digest.hexdigest())

    def close(self, mode: int, *, sync: bool) -> None:
        """Close the whole file. Raise OSError."""
        os.fchmod(self._descriptor, mode)
        if sync:
            os.fsync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def abort(self) -> None:
        """Close and remove it; may be repeated, also after `close`."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):
                os.close(descriptor)
        with suppress(OSError):
            os.unlink(self.path)


def _room(disk: os.statvfs_result) -> int:
    """Return how many bytes may be written on a disk."""
    left = min(LEFT_BYTES, disk.f_blocks * disk.f_frsize // LEFT_SHARE)
    return disk.f_bavail * disk.f_frsize - left


def _check_mode(path: str, mode: int) -> None:
    """Raise PermissionError for what is there, and not this user's to use so."""
    if os.path.lexists(path) and not os.access(path, mode, effective_ids=True):
        why = f"user {os.geteuid()}, which this server runs as, has no access; give it to this user (chown -R)"
        raise PermissionError(errno.EACCES, why, path)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_known_form(about: Any) -> bool:
    """Return whether this says by which file it stands, as this release writes it."""
    if not isinstance(about, dict):
        return False
    return [type(about.get(key)) for key in ("file_id", "name", "size")] == [str, str, int]
