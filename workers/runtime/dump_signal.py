"""The signal that makes a process write its stacks before it is killed.

Runs in: supervisor | worker.
"""

from __future__ import annotations

import signal

DUMP_SIGNAL = signal.SIGRTMIN + 6
"""Makes faulthandler write the stacks of all threads. Sent only shortly before SIGKILL."""
AT_SIGNAL = "Stack at the signal (most recent call first):"
"""The first line of the stack that the handler of SIGTERM writes."""
