"""How a forked child becomes a worker: session, cgroup, sandbox, user and temporary directory, in this order.

Runs in: worker, before any code of a job.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from killable.workers.exit_codes import ExitCode
from killable.workers.processes import exec_worker
from killable.workers.runtime import process_setup
from killable.workers.runtime.worker_loop import WorkerEnds, report_broken, run_worker

if TYPE_CHECKING:
    from killable.workers.protocol.zygote_messages import Configure
    from killable.workers.runtime.sandbox import Sandbox


class WorkerStart:
    """The arguments of a new worker; exists only in the forked child."""

    def __init__(
        self,
        parent: int,
        pipes: WorkerEnds,
        output: tuple[int, int],
        cgroup_procs: int | None,
        tmp: str,
        sandbox: Sandbox | None,
    ) -> None:
        """`output`: the pipes for stdout and stderr; they may be the same pipe."""
        self.parent = parent
        self.pipes = pipes
        self.output = output
        self.cgroup_procs = cgroup_procs
        self.tmp = tmp
        self.sandbox = sandbox


def become_worker(start: WorkerStart, configure: Configure, packages: dict[str, str]) -> NoReturn:
    """Set up the process, then run orders. A failure is reported to the supervisor, and ends the process."""
    try:
        process_setup.worker(
            start.parent,
            output=start.output,
            nice=configure.nice,
            affinity=configure.affinity,
            core_dumps=configure.core_dumps,
        )
        move = process_setup.CgroupMove(start.cgroup_procs)
        if configure.start_method == "spawn" or configure.uid is not None or start.sandbox is not None:
            move.make()  # code of others runs next, or the right to do it goes; else nobody waits for it yet
        if start.sandbox is not None:
            start.sandbox.enter_as_root()
        if configure.uid is not None or start.sandbox is not None:
            own, staging = [start.tmp], configure.staging(start.tmp)
            if os.path.isdir(
                os.path.dirname(staging)
            ):  # else there are no files, or a cleaner of /tmp has removed them
                own.append(staging)
            for folder in own:
                os.mkdir(folder, 0o700)
                if configure.uid is not None and configure.gid is not None:
                    os.chown(folder, configure.uid, configure.gid)
        if configure.uid is not None and configure.gid is not None:
            process_setup.become_user(configure.uid, configure.gid, configure.groups, start.parent)
            os.environ.update(configure.account_env)
        if start.sandbox is not None:
            start.sandbox.enter(start.tmp, configure.uploaded, configure.staging(start.tmp))
    except ProcessLookupError:
        os._exit(ExitCode.PIPE_GONE)  # the pool was closed during the fork
    except (OSError, ValueError) as error:  # ValueError: a limit that this user may not set (resource)
        errno = getattr(error, "errno", None)
        report_broken(start.pipes.frames, f"the worker cannot be confined: {error}", errno)
        os._exit(ExitCode.OS_ERROR)
    if configure.start_method == "spawn":
        exec_worker.exec_worker(start.pipes, configure, packages, start.tmp, move.make())
    process_setup.reseed()
    run_worker(start.pipes, configure, start.tmp, move)
