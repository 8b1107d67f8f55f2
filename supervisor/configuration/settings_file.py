"""The settings file: where it is looked for, and how it is read.

Runs in: supervisor, before it starts. Reads one file and starts nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from killable.supervisor.configuration.faults import ConfigError, ConfigFault
from killable.supervisor.configuration.toml_lines import Key, line_numbers

FILE_NAME = "killable.toml"


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: --config, KILLABLE_CONFIG, ./killable.toml, or None."""
    named = path or (Path(environ["KILLABLE_CONFIG"]) if environ.get("KILLABLE_CONFIG") else None)
    if named is not None:
        return named
    here = Path(FILE_NAME)
    return here if here.is_file() else None


def read(file: Path) -> tuple[bytes, dict[str, Any], dict[Key, int]]:
    """Return what a file has, its tables and the line of each key. Raise ConfigError if it cannot be read as TOML."""
    try:
        written = file.read_bytes()
        text = written.decode().replace("\r\n", "\n")
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigError.of(
            [ConfigFault(str(file), "expected a readable file", error.strerror or str(error))]
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError.of(
            [ConfigFault(str(file), "expected UTF-8 text", f"an invalid byte at offset {error.start}")]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError.of([ConfigFault(str(file), "expected TOML", str(error))]) from error
    return written, content, line_numbers(text)
