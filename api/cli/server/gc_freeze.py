"""Python's garbage collector in the process of `serve`.

Runs in: supervisor, of `killable serve`. In a program with an Executor, the collector is left to the program.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Exclude from collection what lives as long as the process: modules, classes, pools (gc.freeze).

    A full collection of them blocks the event loop, and with it every deadline and cancel: for 25 ms, and for 60 to
    110 ms in a server that was idle for some seconds.
    """
    gc.collect()
    gc.freeze()
