"""The faults of a configuration: the key, what is expected, what was found, and the source of the value.

Runs in: supervisor, before it starts; the command. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from killable.workers.errors import KillableError


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One fault of a configuration."""

    key: str
    expected: str
    found: str
    source: str = ""

    def __str__(self) -> str:
        found = f"; found {self.found}" if self.found else ""
        return f"{self.key}: {self.expected}{found}{f' ({self.source})' if self.source else ''}"


class ConfigError(KillableError):
    """The configuration cannot be used. Fact: `faults`, a list of all faults, as mappings."""

    code = "configuration"
    exit_code = 78

    @classmethod
    def of(cls, faults: Sequence[ConfigFault]) -> ConfigError:
        """Return the error that lists these faults, one line each."""
        headline = (
            "the configuration has a fault" if len(faults) == 1 else f"the configuration has {len(faults)} faults"
        )
        lines = [f"{headline}:", *(f"  {fault}" for fault in faults)]
        return cls("\n".join(lines), faults=[asdict(fault) for fault in faults])


def dotted(path: Iterable[Any]) -> str:
    """Return a key as the file spells it."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """Return a value as the file would spell it, shortened."""
    if isinstance(value, Mapping):
        return "a table"  # without its content: that may be a secret
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
