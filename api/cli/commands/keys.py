"""`killable keys`: make, list and revoke API keys in the file of a server.

Runs in: the machine of the server (Linux). Needs no running server.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors

if TYPE_CHECKING:
    from killable.api.cli.declarations.server import KeyAction, KeyRole, KeyVisibility
    from killable.api.http.api_keys import ApiKey

RELOAD = "a running server reads its keys again at SIGHUP: kill -HUP PID, or systemctl reload"


def keys(
    action: KeyAction,
    name: str,
    role: KeyRole | None,
    visibility: KeyVisibility | None,
    expires: float | None,
    file: Path | None,
    config: Path | None,
    as_json: bool,
) -> None:
    _check_usage(action, name, role)
    with errors.reporting(as_json):
        require_linux("keys")
        path = _path(file, config)
        if action == "list":
            _list(path, as_json)
        elif action == "revoke":
            _revoke(path, name, as_json)
        elif role is not None:
            _make(path, name, role, visibility, expires, as_json)


def _make(
    path: Path, name: str, role: KeyRole, visibility: KeyVisibility | None, lasts_s: float | None, as_json: bool
) -> None:
    from killable.api.http.key_file import make_key
    from killable.api.http.route_roles import VISIBILITIES

    sees = next((each for each in VISIBILITIES if each == visibility), None)
    made, secret = make_key(path, name, role, visibility=sees, lasts_s=lasts_s, now=time.time())
    if as_json:
        console.print_json(_members(made) | {"file": str(path), "key": secret})
        return
    click.echo(secret)
    until = f"until {made.expires}" if made.expires else "until it is revoked"
    console.stderr_console().print(
        f"{made.name} ({made.role}) in {path}, valid {until}; the key is shown this once; {RELOAD}"
    )


def _revoke(path: Path, name: str, as_json: bool) -> None:
    from killable.api.http.key_file import revoke_key

    gone = revoke_key(path, name)
    if as_json:
        console.print_json(_members(gone) | {"file": str(path)})
    else:
        console.stderr_console().print(f"revoked {gone.name}; {RELOAD}")


def _check_usage(action: KeyAction, name: str, role: KeyRole | None) -> None:
    if action != "list" and not name:
        raise click.BadParameter(f"`keys {action}` needs the name of the key", param_hint="NAME")
    if action == "list" and name:
        raise click.BadParameter("`keys list` lists all keys and takes no name", param_hint="NAME")
    if action == "make" and role is None:
        raise click.BadParameter("`keys make` needs a role: read, submit or operate", param_hint="--role")


def _path(file: Path | None, config: Path | None) -> Path:
    """Return the file of keys. Raise ConfigError if there is none."""
    from killable.supervisor.configuration.config import ConfigError, ConfigFault, examine

    if file is not None:
        return file
    configured = examine(config, os.environ, {}, None)[0].server.api_keys_file
    if not configured:
        expected = "expected the path of the file of keys, in killable.toml or in --file"
        raise ConfigError.of([ConfigFault("server.api_keys_file", expected, "")])
    return Path(configured)


def _list(path: Path, as_json: bool) -> None:
    from killable.api.http.key_file import read_keys

    found = read_keys(path, may_be_empty=True, of_any_owner=True)
    if as_json:
        console.print_json([_members(key) for key in found])
        return
    from rich.table import Table
    from rich.text import Text

    now = time.time()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "ROLE", "SEES", "CREATED", "EXPIRES", "KEPT AS"):
        table.add_column(heading)
    for key in found:
        expired = key.has_expired(now)
        table.add_row(
            key.name, key.role, key.visibility or "-", key.created or "-",
            Text(f"{key.expires} (over)" if expired else key.expires or "never", "red" if expired else ""),
            Text("clear text", "yellow") if key.is_clear else "digest",
        )  # fmt: skip
    console.print_table(table)


def _members(key: ApiKey) -> dict[str, Any]:
    """Return what may be shown of a key."""
    return {
        "name": key.name,
        "role": key.role,
        "visibility": key.visibility,
        "created": key.created or None,
        "expires": key.expires or None,
        "kept_as": "clear text" if key.is_clear else "digest",
    }
