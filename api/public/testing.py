"""Test your own jobs: `Context` for unit tests, `run_job` for one in a real worker, `JobServer` with assertions.

Runs in: any. Each name is loaded on its first use. The fixtures of pytest are in `killable.api.testing.pytest_plugin`,
which pytest finds by itself.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from killable.api.testing.finished_job import FinishedJob
    from killable.api.testing.job_server import AsyncJobs, JobServer, run_job
    from killable.api.testing.live_jobs import AsyncLiveJob, LiveJob
    from killable.api.testing.unit_context import UnitContext as Context

__all__ = ["AsyncJobs", "AsyncLiveJob", "Context", "FinishedJob", "JobServer", "LiveJob", "run_job"]

_MODULES = {
    "AsyncJobs": "job_server",
    "AsyncLiveJob": "live_jobs",
    "Context": "unit_context",
    "FinishedJob": "finished_job",
    "JobServer": "job_server",
    "LiveJob": "live_jobs",
    "run_job": "job_server",
}
_OTHER_NAMES = {"Context": "UnitContext"}


def __getattr__(name: str) -> "Any":
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"killable.api.testing.{_MODULES[name]}"), _OTHER_NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
