"""A module that starts a thread when it is imported. Nothing can be forked from its zygote then.

Runs in: zygote.
"""

from __future__ import annotations

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
