"""Which settings may hold a secret, and are never shown.

Runs in: supervisor, before it starts; the command. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

NOT_SHOWN = "(set, not shown)"
_SECRETIVE = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_HARMLESS = re.compile(r"-?[0-9.]{1,5}|true|false|on|off|yes|no|", re.IGNORECASE)
"""Values of a pool's environment that cannot be a secret: small numbers and switches."""


def may_be_secret(path: Sequence[Any]) -> bool:
    """Return whether the value may be a secret. Such a value is never shown, valid or not."""
    return tuple(path[2:3]) == ("env",) or any(_SECRETIVE.search(str(part)) for part in path)


def shown_variable(name: str, value: str) -> str:
    """Return the value of a variable of a pool's environment, or NOT_SHOWN where it may be a secret."""
    return value if _HARMLESS.fullmatch(value) and not may_be_secret((name,)) else NOT_SHOWN
