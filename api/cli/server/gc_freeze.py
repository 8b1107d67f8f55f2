"""Python's garbage collector in the process of `serve`.

Runs in: supervisor, of `killable serve`. In a program with an Executor, the collector is left to the program.
"""

from __future__ import annotations

import gc

FULL_PASSES_EVERY = 50
"""Passes over the middle generation between two full ones (10 by default). With 2,000 connections that come and go a
full pass takes 50 ms or more, and there was one every few seconds.
"""


def settle() -> None:
    """Exclude from collection what lives as long as the process: modules, classes, pools (gc.freeze).

    A full collection of them blocks the event loop, and with it every deadline and cancel: for 25 ms, and for 60 to
    110 ms in a server that was idle for some seconds.
    """
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, FULL_PASSES_EVERY)
