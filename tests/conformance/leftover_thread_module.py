"""A module that leaves a thread behind when it is imported: from its zygote nothing can be forked.

Runs in: zygote.
"""

from __future__ import annotations

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
