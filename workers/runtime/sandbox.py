"""The sandbox of a pool's workers: no network, files by a list of what may be written and read, own shared memory.

Runs in: zygote, which prepares it; worker, which enters it before any code of a job. The supervisor asks what is
possible. It is entered for good: no job can leave it, and everything that a job starts is in it, too.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from typing import Any

from killable.workers.runtime import landlock, private_memory, seccomp

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/proc", "/sys/devices/system"),
    *("/dev/random", "/dev/urandom"),
    *(
        f"/etc/{name}"
        for name in (
            *("ld.so.cache", "ld.so.preload", "localtime", "timezone", "passwd", "group", "nsswitch.conf"),
            *("mime.types", "ssl/certs", "ssl/openssl.cnf"),
        )
    ),
)
"""What programs and their libraries read, where it exists. None of it tells a secret to whom its mode keeps it from."""
_OF_THE_KERNEL = frozenset({"proc", "sys"})
_CAPABILITY_VERSION = 0x20080522
"""linux/capability.h, version 3: two halves of 32 capabilities each."""


def why_no_network_rule() -> str:
    """Return why a job cannot be kept from the network here; empty: it can."""
    return seccomp.why_not()


def why_no_file_rules() -> str:
    """Return why a job cannot be kept from files here; empty: it can."""
    version = landlock.abi()
    if version >= landlock.ABI_WANTED:
        return ""
    if not version:
        return "the kernel has no Landlock, or it was switched off at boot (lsm=), or a container's profile forbids it"
    return f"the kernel's Landlock has version {version}; version {landlock.ABI_WANTED} is needed (Linux 6.2)"


class Sandbox:
    """What the workers of one pool may still do."""

    def __init__(
        self, rules: Mapping[str, Any], *, modules: Iterable[str], folder: str, packages: Mapping[str, str]
    ) -> None:
        """`rules`: `network` and `shared_memory` (whether they may be used), `write` and `read` (paths; None: all).

        Call it when the modules are imported: what they are made of can be read.
        """
        self._network: bool = rules["network"]
        self._shared_memory: bool = rules["shared_memory"]
        self._write: list[str] | None = rules["write"]
        self._read: list[str] | None = rules["read"]
        self._folder = folder or "."
        self._needed = [] if self._read is None else list(_existing(_needed(modules, folder, packages)))

    def enter_as_root(self) -> None:
        """Do first what needs the rights of root, which `enter` and a pool's `user` take away. Raise OSError."""
        if not self._shared_memory:
            private_memory.enter()

    def enter(self, tmp: str, uploaded: str = "", staging: str = "") -> None:
        """Restrict this process for good; it may write in `tmp`, a folder, and in `staging`. Raise OSError.

        In `uploaded` it may read the files that clients have uploaded. It cannot list them: their names cannot be
        guessed, and a job is told its own.

        Needs PR_SET_NO_NEW_PRIVS. Root gives up its capabilities, with which it could undo the rest.
        """
        if self._write is not None:
            _make_temporary_files_in(tmp)
        if landlock.abi():
            self._restrict_files(tmp, uploaded, staging)
        if not self._network:
            seccomp.forbid_network()
        if not seccomp.why_not():
            seccomp.forbid_limits_of_others()
        _drop_capabilities()

    def _restrict_files(self, tmp: str, uploaded: str, staging: str) -> None:
        handled = landlock.DEVICE_NODES  # never of use to a job, and without any right there are no rules
        if self._write is not None or landlock.abi() >= landlock.ABI_WANTED:
            handled |= landlock.WRITE
        handled |= 0 if self._read is None else landlock.READ
        rules = landlock.Ruleset(handled)
        private = [] if self._shared_memory else [private_memory.FOLDER]
        if self._write is None:
            rules.allow(_outside_the_kernel(), landlock.WRITE & ~landlock.DEVICE_NODES)
        own = [tmp, *_existing([staging])]
        rules.allow([*(self._write or ()), *own, *private, *_existing(_DEVICES)], landlock.READ | landlock.WRITE)
        rules.allow([*(self._read or ()), *self._needed], landlock.READ)
        rules.allow(_existing([uploaded]), landlock.READ & ~landlock.LIST)
        rules.allow([self._folder], landlock.LIST)  # to import a module, Python lists the folder that it is in
        rules.enforce()


def _needed(modules: Iterable[str], folder: str, packages: Mapping[str, str]) -> Iterator[str]:
    """Yield what a worker reads to run: the system's libraries, the interpreter, packages and modules.

    Of the folder of the configuration only the modules: the file of API keys may be in it.
    """
    yield from _SYSTEM
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    yield from (os.path.dirname(os.path.realpath(sys.executable)), *packages.values())
    inside = os.path.join(os.path.realpath(folder or "."), "")
    yield from (path for path in sys.path if path and not inside.startswith(os.path.join(os.path.realpath(path), "")))
    for name in modules:
        if name.endswith(".py"):
            yield os.path.realpath(os.path.join(folder or ".", name))
            continue
        # Not as `import` would find it: a zygote whose workers are exec'd has not the folder on its path.
        spec = PathFinder.find_spec(name.partition(".")[0], [folder or ".", *sys.path])
        if spec is not None:
            yield from spec.submodule_search_locations or filter(None, [spec.origin])


def _outside_the_kernel() -> Iterator[str]:
    """Yield all folders and files of the root folder but the kernel's own: by writing into a control group, or a
    setting of the kernel, a job ends processes that it may not signal.
    """
    for name in os.listdir("/"):
        if name not in _OF_THE_KERNEL and os.path.exists(f"/{name}"):
            yield f"/{name}"


def _existing(paths: Iterable[str]) -> Iterator[str]:
    return filter(os.path.exists, dict.fromkeys(paths))


def _make_temporary_files_in(tmp: str) -> None:
    """Let `tempfile` use the worker's own folder: /tmp may not be written."""
    os.environ["TMPDIR"] = tmp
    if "tempfile" in sys.modules:
        vars(sys.modules["tempfile"])["tempdir"] = None  # it remembers the folder that it found in the zygote


def _drop_capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"capset: {os.strerror(errno)}")
