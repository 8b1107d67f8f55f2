"""What Python's collector has to look at in a process that is the supervisor's own.

Runs in: supervisor, of `killable serve`. In a program that has an Executor the collector is that program's affair.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Spare the collector what stays for as long as the process: modules, classes, pools (gc.freeze).

    A full pass over them holds up the event loop, and with it every deadline and every cancel: 25 ms, and 60 to 110 in
    a server that was idle for some seconds.
    """
    gc.collect()
    gc.freeze()
