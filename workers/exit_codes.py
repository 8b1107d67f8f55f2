"""The exit codes of workers, zygotes and guards, with the meanings of sysexits.h.

Runs in: any.

An exit code has these meanings only before the job function is entered, or together with a closing frame. Otherwise
any code, 0 without a result too, is the job's own and is reported as `exit`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    RETIRED = 0
    """Ended cleanly, for example after its last job."""
    BAD_ASSIGNMENT = 64
    """The order to run could not be decoded (EX_USAGE)."""
    BAD_PAYLOAD = 65
    """The input could not be decoded (EX_DATAERR)."""
    HARNESS_BUG = 70
    """A fault of this project (EX_SOFTWARE)."""
    OS_ERROR = 71
    """Confinement failed, or a system call that the worker needs (EX_OSERR)."""
    PIPE_GONE = 74
    """The supervisor's end of a pipe is closed (EX_IOERR)."""
    PROTOCOL = 76
    """The supervisor wrote an invalid frame (EX_PROTOCOL)."""
    NOT_IMPORTABLE = 78
    """The job's module or preload failed (EX_CONFIG)."""
    TERMINATED = 143
    """Ended by SIGTERM after clean-up: 128 + 15, as a shell reports it."""


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
