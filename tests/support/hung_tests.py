"""In a run by several processes a test that hangs ends its process, which says where each thread of it stands.

The timer of pytest-timeout (SIGALRM) raises an exception once. Where what that unwinds waits as well, as the end of
`with Executor()` does for a call that never ends, and where a test has taken the alarm for itself, nothing else would
end the suite. A thread of faulthandler needs neither the main thread nor the interpreter's lock.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator

import pytest

AFTER_TIMEOUT_S = float(os.environ.get("AFTER_TIMEOUT_S", 60))
"""Time for what the timeout of a test unwinds."""

_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        return  # one process, and perhaps a debugger
    writable = [config.stash.setdefault(_stderr, os.dup(2))]  # pytest captures nothing now
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor":  # of pytest-xdist, which reads this pipe to its end
            writable.append(plugin.channel.gateway._io.outfile.fileno())

    def leave() -> None:
        """A fork that is left behind must not keep anybody from seeing this process end."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        for descriptor in writable:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)

    os.register_at_fork(after_in_child=leave)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if _stderr not in item.config.stash:
        return (yield)
    _watch(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Watch again: a failure makes pytest's own plugin end the watch, and what the failed test has set up may hang."""
    if isinstance(node, pytest.Item) and _stderr in node.config.stash:
        _watch(node)


def _watch(item: pytest.Item) -> None:
    marker = item.get_closest_marker("timeout")
    timeout = marker.args[0] if marker is not None else float(item.config.getini("timeout"))
    faulthandler.dump_traceback_later(timeout + AFTER_TIMEOUT_S, exit=True, file=item.config.stash[_stderr])
