"""What is set of Python in a process of our own: its garbage collector, and how soon threads take turns.

Runs in: supervisor, of `killable serve` and of a node. Behind `ports`. In a program with an Executor both are left to
the program.
"""

from __future__ import annotations

import asyncio
import gc
import sys

YOUNG_OBJECTS = 200
"""So many objects more than before, and those that are new are looked through (700 by default). There may be a hundred
times as many new ones, where others have gone: connections of a crowd that comes and goes.
"""
GROWTH_OBJECTS = 200_000
"""A full pass is due if so many objects are kept, and a quarter more, than after the last one. They are counted (5 ms)
only after as many passes as it takes to have so many more.
"""
SWITCH_S = 0.0005
"""After this time a thread may take the interpreter from the event loop (Python's default: 5 ms). A journal's commit
needs it a few times; while clients keep the loop busy, each took 5 ms more until an end was on disk.
"""


def pause_collector() -> None:
    """Collect nothing during the start, until `freeze_collector`: what it imports is no garbage, and to go through it
    again and again is a tenth of its processor time.
    """
    gc.disable()


def freeze_collector() -> None:
    """Look at what is kept once only, from here on (gc.freeze), and not at what there is.

    Call it in the event loop, which runs the full passes. A second call does nothing. Imports leave next to no garbage:
    a pass at the end of a server's start took 0.1 s, a tenth of it, and gave no memory back.

    A pass over what is kept blocks the event loop, and with it every deadline and cancel: for 60 to 110 ms over what a
    server has imported, for 500 ms beside 5,000 connections. What is kept goes when nobody refers to it any more. Only
    cycles stay until a full pass, and what ends here leaves none.
    """
    if not any(isinstance(each, _Passes) for each in gc.callbacks):
        gc.callbacks.append(_Passes(asyncio.get_running_loop()))
    gc.set_threshold(YOUNG_OBJECTS)
    gc.enable()


class _Passes:
    """Called by the collector before and after each pass, in any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._passes = 0
        gc.freeze()
        self._kept = gc.get_freeze_count()

    def __call__(self, phase: str, info: object) -> None:
        if phase == "start":
            return
        gc.freeze()
        self._passes += 1
        if self._passes == GROWTH_OBJECTS // YOUNG_OBJECTS:
            self._passes = 0
            if gc.get_freeze_count() > self._kept * 1.25 + GROWTH_OBJECTS:
                self._loop.call_soon_threadsafe(self._collect_all)  # the collector is at work: here it does nothing

    def _collect_all(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._kept = gc.get_freeze_count()


def let_threads_in() -> None:
    """Let other threads take the interpreter from the event loop after SWITCH_S."""
    sys.setswitchinterval(SWITCH_S)
