"""Makes the temporary folder of a supervisor.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import contextlib
import os
import sys


def make_folder(prefix: str) -> str:
    """Make a private folder where `tempfile` would. Its import takes 4 ms, and an Executor's program may not need it.
    Raise OSError.
    """
    if "tempfile" not in sys.modules:
        parent = os.environ.get("TMPDIR") or os.environ.get("TEMP") or os.environ.get("TMP") or "/tmp"
        folder = os.path.join(os.path.abspath(parent), prefix + os.urandom(4).hex())
        with contextlib.suppress(OSError):
            os.mkdir(folder, 0o700)
            return folder
    import tempfile

    return tempfile.mkdtemp(prefix=prefix)
