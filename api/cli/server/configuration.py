"""Read the configuration in force and the API keys for `serve`, `config` and `check`, with every fault of both.

Runs in: supervisor, before it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from killable.api.http.api_keys import KEY, KEY_CHARS_MAX, KEY_CHARS_MIN, ApiKey
from killable.api.http.host_and_origin import is_loopback
from killable.api.http.key_file import KeysInvalid, read_keys
from killable.api.webhooks.server_webhooks import faults_of
from killable.supervisor.configuration import config as settings
from killable.supervisor.configuration.config import Config, ConfigError, ConfigFault
from killable.supervisor.telemetry.otel_settings import faults_of as telemetry_faults

API_KEY = "KILLABLE_API_KEY"
API_KEY_NAME = "default"
KEYS_FILE = "server.api_keys_file"
MCP_FROM, MCP_BELOW = (2, 3), (3,)
"""Releases of the package mcp that fit, as in `pyproject.toml`."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The configuration and the API keys of a server."""

    config: Config
    keys: tuple[ApiKey, ...]
    own: ApiKey | None = None
    """The key among them that is from the environment."""


def load(path: Path | None, environ: MutableMapping[str, str], flags: Mapping[str, Any], target: str | None) -> InForce:
    """Return the configuration in force. Raise ConfigError with every fault."""
    in_force, faults = examine(path, environ, flags, target)
    if faults:
        raise ConfigError.of(faults)
    return in_force


def examine(
    path: Path | None, environ: MutableMapping[str, str], flags: Mapping[str, Any], target: str | None
) -> tuple[InForce, list[ConfigFault]]:
    """Return the configuration without its faulty parts, and every fault. Raise ConfigError if the file is not TOML.

    Removes KILLABLE_API_KEY from `environ`, so that no process started later inherits it.
    """
    own = environ.pop(API_KEY, None)
    config, faults = settings.examine(path, environ, flags, target)
    keys, of_environment, wrong = _keys(config, own)
    wrong += _without_mcp(config)
    wrong += [ConfigFault(*fault, config.sources.get(fault[0], "")) for fault in telemetry_faults(config.telemetry)]
    doubted = {fault.key for fault in (*faults, *wrong)} & {KEYS_FILE, API_KEY, "server.host"}
    if not keys and not doubted:
        wrong += _open_to_everyone(config)
    return InForce(config, keys, of_environment), faults + wrong + list(faults_of(config))


def source_of(key: ApiKey, in_force: InForce) -> str:
    """Return the source of a key: its file or its variable."""
    return API_KEY if key is in_force.own else in_force.config.server.api_keys_file


def reread_keys(in_force: InForce) -> tuple[ApiKey, ...]:
    """Read the file of keys again. Blocks. Raise KeysInvalid; a file without any key is none: all were revoked."""
    path, own = in_force.config.server.api_keys_file, in_force.own
    keys = read_keys(path, may_be_empty=True) if path else ()
    if own is None:
        return keys
    if any(key.name == own.name for key in keys):
        clash = f"a key named {own.name}"
        raise KeysInvalid(f"API keys in {path}: {clash}, as in {API_KEY}", faults=[clash])
    return keys if _has(keys, own) else (*keys, own)


def _has(keys: Sequence[ApiKey], own: ApiKey) -> bool:
    """Return whether the key of the environment is one of the file, as whose line it then counts: it is a client's key
    in the shell of somebody who looks after the server.
    """
    return any(key.sha256 == own.sha256 for key in keys)


def _keys(config: Config, own: str | None) -> tuple[tuple[ApiKey, ...], ApiKey | None, list[ConfigFault]]:
    """Read the file of keys and add the key of the environment. No fault contains a key."""
    keys: tuple[ApiKey, ...] = ()
    faults: list[ConfigFault] = []
    if config.server.api_keys_file:
        try:
            keys = read_keys(config.server.api_keys_file)
        except KeysInvalid as error:
            expected = f"expected a file of keys, as `killable keys` makes it: {config.server.api_keys_file}"
            faults += [
                ConfigFault(KEYS_FILE, expected, why, config.sources[KEYS_FILE]) for why in error.facts["faults"]
            ]
    if own is None:
        return keys, None, faults
    if not KEY_CHARS_MIN <= len(own) <= KEY_CHARS_MAX or not KEY.fullmatch(own):
        expected = (
            f"expected {KEY_CHARS_MIN} to {KEY_CHARS_MAX} visible ASCII characters (`openssl rand -hex 16` makes some)"
        )
        found = f"{len(own)} characters" if own else "an empty value"
        return keys, None, [*faults, ConfigFault(API_KEY, expected, found)]
    of_environment = ApiKey(API_KEY_NAME, "operate", own)
    if _has(keys, of_environment):
        return keys, None, faults
    if any(key.name == API_KEY_NAME for key in keys):
        expected = f"expected no key named {API_KEY_NAME} in {config.server.api_keys_file} beside this one"
        faults.append(ConfigFault(API_KEY, expected, "one there"))
    return (*keys, of_environment), of_environment, faults


def _without_mcp(config: Config) -> Iterator[ConfigFault]:
    """Yield a fault if tools are to be served and the package for it is not there, or is another one."""
    if not config.server.mcp:
        return
    try:
        found = metadata.version("mcp")
    except metadata.PackageNotFoundError:
        found = ""
    release = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if not MCP_FROM <= release < MCP_BELOW:
        expected = f'expected the package mcp, {MCP_FROM[0]}.{MCP_FROM[1]} or later: pip install "killable[mcp]"'
        told = f"mcp {found}" if found else "no such package"
        yield ConfigFault("server.mcp", expected, told, config.sources.get("server.mcp", ""))


def _open_to_everyone(config: Config) -> Iterator[ConfigFault]:
    """Yield a fault for an address that other machines can reach, without an API key."""
    server = config.server
    if server.uds or is_loopback(server.host.lower().strip("[]")):
        return
    expected = (
        "expected 127.0.0.1, ::1 or localhost, or an API key: without a key, anyone who can reach this machine could "
        f"start and stop jobs. Set a key in {API_KEY} or {KEYS_FILE} (`openssl rand -hex 16` makes one), or stay on "
        "127.0.0.1 behind a proxy that authenticates, or an ssh tunnel"
    )
    yield ConfigFault(
        "server.host", expected, f'"{server.host}", and no API key', config.sources.get("server.host", "")
    )
