"""The signal for a last look at a process that is about to be killed.

Runs in: supervisor | worker.
"""

from __future__ import annotations

import signal

DUMP_SIGNAL = signal.SIGRTMIN + 6
"""Makes faulthandler write the stacks of all threads; sent only right before SIGKILL, never to a process that is to
live.
"""
