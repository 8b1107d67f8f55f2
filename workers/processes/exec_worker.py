"""Start method `spawn`: exec a fresh interpreter as the worker, instead of running in the zygote's memory.

Runs in: worker. For code that cannot be forked: an engine with threads, CUDA.
"""

from __future__ import annotations

import json
import os
import signal
import site
import sys
from typing import Any, NoReturn

from killable.workers.exit_codes import ExitCode
from killable.workers.protocol.zygote_messages import Configure
from killable.workers.runtime import job_type_catalogue, process_setup
from killable.workers.runtime.worker_loop import WorkerEnds, report_broken, run_worker

_DESCRIPTORS = range(3, 3 + len(WorkerEnds._fields))
"""The descriptor numbers of WorkerEnds in the fresh interpreter, after the standard streams."""


def exec_worker(
    pipes: WorkerEnds, configure: Configure, packages: dict[str, str], tmp: str, cgroup_errno: int
) -> NoReturn:
    """Replace this confined fork with a fresh interpreter. Session, subreaper, limits, PDEATHSIG survive execve(2)."""
    frames = pipes.frames
    try:
        for number, descriptor in zip(_DESCRIPTORS, _out_of_the_way(pipes), strict=True):
            os.dup2(descriptor, number, inheritable=True)
        frames = WorkerEnds(*_DESCRIPTORS).frames
        process_setup.close_descriptors_except(_DESCRIPTORS)
        arguments = {
            "packages": packages,
            "configure": configure._asdict(),
            "tmp": tmp,
            "cgroup_errno": cgroup_errno,
        }
        boot = os.path.join(packages["killable.workers"], "processes", "boot.py")
        os.execv(sys.executable, [sys.executable, "-S", "-P", boot, "worker", json.dumps(arguments)])
    except BaseException as error:
        report_broken(frames, f"the worker cannot be exec'd: {error}", getattr(error, "errno", None))
        os._exit(ExitCode.OS_ERROR)


def _out_of_the_way(pipes: WorkerEnds) -> list[int]:
    """Return copies at higher numbers, so that no dup2 closes a descriptor that is still needed."""
    import fcntl

    return [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in pipes]


def main(packages: dict[str, str], configure: dict[str, Any], tmp: str, cgroup_errno: int) -> NoReturn:
    """Import the modules, run the preloads, and run orders. Never returns."""
    pipes = WorkerEnds(*_DESCRIPTORS)
    for descriptor in pipes:
        os.set_inheritable(descriptor, False)
    # The fresh interpreter has installed its handler, which would raise KeyboardInterrupt in the job; a fork has none.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process_setup.title.find()
    site.main()
    settings = Configure(**configure)
    try:
        job_type_catalogue.load(settings, run_preloads=True)
    except BaseException as error:
        report_broken(pipes.frames, job_type_catalogue.traceback_of(error))
        os._exit(ExitCode.NOT_IMPORTABLE)
    run_worker(pipes, settings, tmp, process_setup.CgroupMove(None, cgroup_errno))
