"""The names that users import from `killable`, each loaded on its first use (PEP 562).

Runs in: any. Importing this loads nothing else: a worker loads no supervisor, a client machine no server.
"""

TYPE_CHECKING = False  # type checkers treat every name TYPE_CHECKING as true, which saves the import of `typing`
if TYPE_CHECKING:
    from typing import Any

    from killable.api.client.async_client import AsyncClient
    from killable.api.client.client import Client
    from killable.api.client.errors import NotEnded, Restarted, Unreachable
    from killable.api.client.events import Ending, Event
    from killable.supervisor.executor.await_stopped import stopped
    from killable.supervisor.executor.executor import Executor
    from killable.supervisor.executor.futures import JobFuture
    from killable.supervisor.executor.streams import AsyncStream, Stream
    from killable.workers.authoring.context import Context, Stopping
    from killable.workers.authoring.input_file import InputFile
    from killable.workers.authoring.job_functions import job, preload
    from killable.workers.authoring.limits_and_caps import Limits
    from killable.workers.authoring.operations import OperationTimedOut
    from killable.workers.authoring.registered_types import InputRefused
    from killable.workers.authoring.retry import Retry
    from killable.workers.error_classes import WorkerCrashed, WorkerExited, WorkerKilled
    from killable.workers.errors import (
        JobCancelled,
        JobError,
        JobFailed,
        JobTimedOut,
        KillableError,
        OutOfMemory,
        Refused,
    )

    __version__: str

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Context",
    "Ending",
    "Event",
    "Executor",
    "InputFile",
    "InputRefused",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobFuture",
    "JobTimedOut",
    "KillableError",
    "Limits",
    "NotEnded",
    "OperationTimedOut",
    "OutOfMemory",
    "Refused",
    "Restarted",
    "Retry",
    "Stopping",
    "Stream",
    "Unreachable",
    "WorkerCrashed",
    "WorkerExited",
    "WorkerKilled",
    "__version__",
    "job",
    "preload",
    "stopped",
]

_MODULES = {
    "AsyncClient": "killable.api.client.async_client",
    "AsyncStream": "killable.supervisor.executor.streams",
    "Client": "killable.api.client.client",
    "Context": "killable.workers.authoring.context",
    "Ending": "killable.api.client.events",
    "Event": "killable.api.client.events",
    "Executor": "killable.supervisor.executor.executor",
    "InputRefused": "killable.workers.authoring.registered_types",
    "InputFile": "killable.workers.authoring.input_file",
    "JobCancelled": "killable.workers.errors",
    "JobError": "killable.workers.errors",
    "JobFailed": "killable.workers.errors",
    "JobFuture": "killable.supervisor.executor.futures",
    "JobTimedOut": "killable.workers.errors",
    "KillableError": "killable.workers.errors",
    "Limits": "killable.workers.authoring.limits_and_caps",
    "NotEnded": "killable.api.client.errors",
    "OperationTimedOut": "killable.workers.authoring.operations",
    "OutOfMemory": "killable.workers.errors",
    "Refused": "killable.workers.errors",
    "Restarted": "killable.api.client.errors",
    "Retry": "killable.workers.authoring.retry",
    "Stopping": "killable.workers.authoring.context",
    "Stream": "killable.supervisor.executor.streams",
    "Unreachable": "killable.api.client.errors",
    "WorkerCrashed": "killable.workers.error_classes",
    "WorkerExited": "killable.workers.error_classes",
    "WorkerKilled": "killable.workers.error_classes",
    "job": "killable.workers.authoring.job_functions",
    "preload": "killable.workers.authoring.job_functions",
    "stopped": "killable.supervisor.executor.await_stopped",
}


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("killable")
    elif name in _MODULES:
        from importlib import import_module
        from sys import platform

        if _MODULES[name].startswith("killable.supervisor.") and platform != "linux":
            raise ImportError(f"killable.{name} needs Linux; Client and AsyncClient reach a server there from here")
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next access does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
