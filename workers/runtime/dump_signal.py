"""The signal that makes a process write its stacks before it is killed.

Runs in: supervisor | worker.
"""

from __future__ import annotations

import signal

DUMP_SIGNAL = signal.SIGRTMIN + 6
"""Makes faulthandler write the stacks of all threads. Sent only right before SIGKILL."""
