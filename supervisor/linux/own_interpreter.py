"""What is set of Python in a process of our own: its garbage collector, and how soon threads take turns.

Runs in: supervisor, of `killable serve` and of a node. Behind `ports`. In a program with an Executor both are left to
the program.
"""

from __future__ import annotations

import gc
import sys

FULL_PASSES_EVERY = 50
"""Passes over the middle generation between two full ones (10 by default). With 2,000 connections that come and go a
full pass takes 50 ms or more, and there was one every few seconds.
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
    """Exclude from collection what lives as long as the process: modules, classes, pools (gc.freeze). Collect the rest
    from here on.

    A full collection of them blocks the event loop, and with it every deadline and cancel: for 25 ms, and for 60 to
    110 ms in a server that was idle for some seconds.
    """
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, FULL_PASSES_EVERY)
    gc.enable()


def let_threads_in() -> None:
    """Let other threads take the interpreter from the event loop after SWITCH_S."""
    sys.setswitchinterval(SWITCH_S)
