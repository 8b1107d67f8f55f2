"""The exit-code contract of our own processes: one table (meanings of sysexits.h).

Runs in: any.

A code is ours only before the job function was entered, or together with our closing frame. After that any
code, 0 without a result too, belongs to the job and is reported as `exit`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    RETIRED = 0
    """Ended cleanly: retired, or one job done."""
    BAD_ASSIGNMENT = 64
    """The order to run could not be understood (EX_USAGE)."""
    BAD_PAYLOAD = 65
    """The input could not be decoded (EX_DATAERR)."""
    HARNESS_BUG = 70
    """A fault of our own (EX_SOFTWARE)."""
    OS_ERROR = 71
    """Confinement failed, or the system lacks what we need (EX_OSERR)."""
    PIPE_GONE = 74
    """The supervisor's end of a pipe is gone (EX_IOERR)."""
    PROTOCOL = 76
    """The other side wrote nonsense (EX_PROTOCOL)."""
    NOT_IMPORTABLE = 78
    """The job's module or preload failed (EX_CONFIG)."""
    TERMINATED = 143
    """Ended by SIGTERM after clean-up: 128 + 15, as a shell would say."""


MEANINGS: dict[int, str] = {
    ExitCode.RETIRED: "retired cleanly",
    ExitCode.BAD_ASSIGNMENT: "bad assignment",
    ExitCode.BAD_PAYLOAD: "bad payload",
    ExitCode.HARNESS_BUG: "harness bug",
    ExitCode.OS_ERROR: "confinement or operating-system error",
    ExitCode.PIPE_GONE: "pipe gone",
    ExitCode.PROTOCOL: "protocol error",
    ExitCode.NOT_IMPORTABLE: "job module not importable",
    ExitCode.TERMINATED: "ended by SIGTERM after clean-up",
}
