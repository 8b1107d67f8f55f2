"""What a zygote imports and freezes before it forks, so that its workers share the memory instead of copying it.

Runs in: zygote, single-threaded. After a fork a page is copied by the first process that writes to it. The garbage
collector writes to every object that it looks at, but not to frozen ones (gc.freeze).
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence
from contextlib import suppress

NEEDED_BY_JOBS = ("pathlib", "shutil", "subprocess", "tempfile")
"""What some jobs make a worker import, such as those that ask for `ctx.tmp`; 10 ms. A worker's user may not be able to
read these modules after the fork.
"""
_NOT_FOR_THE_FIRST_WORKER = ("killable.workers.protocol.by_value", "inspect", "logging", "multiprocessing")
"""What an Executor's workers share with the zygote, save the first one: its start is waited for, and it imports this
itself if its task needs it.
"""


def import_modules(names: Sequence[str]) -> None:
    """Import modules. Raise what their import raises."""
    for name in names:
        importlib.import_module(name)


def freeze_own_modules() -> None:
    """Let the collector work from now on, but not look at what this process has imported so far."""
    gc.freeze()
    gc.enable()


def freeze() -> None:
    """Collect what is garbage, and have the collector never look at the other objects again, here and in workers."""
    gc.collect()
    gc.freeze()


def share_with_later_workers() -> None:
    """Import between the first fork and the second what the first worker did not wait for: 20 ms."""
    with suppress(Exception):  # each worker imports it again, and reports why it fails
        import_modules(_NOT_FOR_THE_FIRST_WORKER)
    freeze()  # finds only these imports: all other objects are frozen, and the first worker shares their pages
