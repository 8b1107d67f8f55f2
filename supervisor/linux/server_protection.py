"""What protects a server's own process: from the out-of-memory killer, and from processes of the same user.

Runs in: supervisor. Behind `ports`. Not for an Executor, whose process is the program's.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from killable.workers.runtime import process_setup

SERVER_OOM_SCORE = -250
"""The out-of-memory score of a server that may lower it (CAP_SYS_RESOURCE): below that of other programs."""


def protect() -> None:
    """Let the kernel's out-of-memory killer take others first, and processes of the same user read nothing of this one.

    A score that somebody has set (systemd's OOMScoreAdjust) stays. An undumpable process (prctl(2)) cannot be traced,
    and its memory, descriptors and environment in /proc belong to root: workers, which run as the same user, could
    read keys and inputs of others there. It dumps no core. What it starts by exec is dumpable again.
    """
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        if score.read_text().strip() == "0":
            score.write_text(str(SERVER_OOM_SCORE))
    process_setup.prctl(process_setup.PR_SET_DUMPABLE, 0)
