"""The address of a server, as a client is given it.

Runs in: any machine. Apart from `exchange`, which imports httpx: the help of a verb needs no more than this.
"""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:7833"
UNIX_PREFIX = "unix:"
