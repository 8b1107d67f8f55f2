"""What SIGTERM has interrupted: the job's own code, the event loop, a hook, or the handler itself.

Runs in: worker. An exception that is raised in the job ends it. In a hook it would be swallowed, and in asyncio's own
code it would break the loop.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType, GeneratorType
from typing import Any

from killable.workers.runtime import backward_jump

_HANDLERS = frozenset({"killable.workers.runtime.sigterm_handler", backward_jump.__name__, __name__})
"""The modules that take a signal: they may be interrupted by the next one."""

_LOCKS = frozenset({"_acquireLock", "_releaseLock", "_prepareFork", "_afterFork"})
"""The functions that logging registers with `os.register_at_fork`, up to Python 3.12 and from 3.13 on."""


def is_in_hook(frame: FrameType | None, own: CodeType) -> bool:
    """Return whether the signal interrupted a hook, where an exception would be swallowed.

    The hooks are `sys.unraisablehook` (the job's, and `own`, in which a worker without CPU time may stay longer than
    the supervisor waits) and logging's for forks: they run first after each `os.fork`, and the lock would stay held.
    """
    hooks = (own, getattr(sys.unraisablehook, "__code__", None))
    while frame is not None and frame.f_code not in hooks:
        if frame.f_code.co_name in _LOCKS and frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return frame is not None


def is_event_loops(frame: FrameType | None) -> bool:
    """Return whether the signal interrupted asyncio or standard-library code that asyncio called, not job code."""
    while frame is not None and _is_skipped(frame):
        if _package(frame) == "asyncio":
            return True
        frame = frame.f_back
    return False


def runs_the_loop(frame: FrameType | None) -> bool:
    """Return whether the signal interrupted the event loop while it ran a step.

    False while the loop waits, and in asyncio functions that the job called (`asyncio.sleep`): there an exception
    propagates into the job.
    """
    while frame is not None and _is_skipped(frame):
        if _package(frame) == "selectors":
            return False
        if _package(frame) == "asyncio" and frame.f_code.co_name == "_run_once":
            return True
        frame = frame.f_back
    return False


def _is_skipped(frame: FrameType) -> bool:
    """Return whether to look at the frame's caller instead: it is library code, or this handler, itself interrupted."""
    return _is_handlers(frame) or _package(frame) in sys.stdlib_module_names


def _is_handlers(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")) in _HANDLERS


def interrupted_frame(frame: FrameType | None) -> FrameType | None:
    """Return the frame that this handler interrupted, also when the handler itself was interrupted."""
    while frame is not None and _is_handlers(frame):
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def suspended_frame(generator: GeneratorType[Any, Any, Any] | None) -> FrameType | None:
    """Return the frame of a generator that waits for its next step; None if it runs, since it is on the stack then."""
    if generator is None or generator.gi_running:
        return None
    return generator.gi_frame
