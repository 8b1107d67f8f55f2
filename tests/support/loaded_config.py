"""A configuration without faults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from killable.supervisor.configuration.config import Config, ConfigError, examine


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], target: str | None) -> Config:
    """Return what `examine` does. Raise ConfigError with every fault."""
    config, faults = examine(path, environ, flags, target)
    if faults:
        raise ConfigError.of(faults)
    return config
