"""`killable keys`: make, list and revoke API keys in the file of a server.

Runs in: the machine of the server (Linux). Needs no running server.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from killable.api.cli.commands.serve import require_linux
from killable.api.cli.display import console, errors
from killable.api.cli.parameters.options import ConfigFile, Json, seconds

if TYPE_CHECKING:
    from killable.api.http.api_keys import ApiKey

RELOAD = "a running server reads its keys again at SIGHUP: kill -HUP PID, or systemctl reload"


class KeyAction(StrEnum):
    """What to do."""

    MAKE = "make"
    LIST = "list"
    REVOKE = "revoke"


class KeyRole(StrEnum):
    """What a key may do; each may do what the ones before it may."""

    READ = "read"
    SUBMIT = "submit"
    OPERATE = "operate"


class KeyVisibility(StrEnum):
    """Which jobs a key sees."""

    ALL = "all"
    OWN = "own"


def keys(
    action: Annotated[
        KeyAction, typer.Argument(metavar="make|list|revoke", help="What to do.", show_default=False)
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the key: the tenant of its jobs.", show_default=False)
    ] = "",
    role: Annotated[
        KeyRole | None,
        typer.Option(
            "--role", metavar="read|submit|operate", help="What it may do: look, also submit and cancel, or everything."
        ),
    ] = None,
    visibility: Annotated[
        KeyVisibility | None,
        typer.Option(
            "--visibility", metavar="all|own", help="Which jobs it sees. Default: server.visibility; with operate all."
        ),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            "--expires", parser=seconds, metavar="TIME", show_default=False,
            help="Time from now after which it is refused: 30d, 12h. Default: never.",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Default: server.api_keys_file of the configuration.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Make, list or revoke API keys.

    `make` prints the key, once: the file keeps only its digest, with name, role,
    visibility, creation and expiry. `revoke` removes a key. A running server
    reads the file again when it gets SIGHUP; jobs and streams of a revoked key
    go on.
    """
    _check_usage(action, name, role)
    with errors.reporting(as_json):
        require_linux("keys")
        path = _path(file, config)
        if action is KeyAction.LIST:
            _list(path, as_json)
        elif action is KeyAction.REVOKE:
            _revoke(path, name, as_json)
        elif role is not None:
            _make(path, name, role, visibility, expires, as_json)


def _make(
    path: Path, name: str, role: KeyRole, visibility: KeyVisibility | None, lasts_s: float | None, as_json: bool
) -> None:
    from killable.api.http.access import VISIBILITIES
    from killable.api.http.key_file import make_key

    sees = next((each for each in VISIBILITIES if each == visibility), None)
    made, secret = make_key(path, name, role.value, visibility=sees, lasts_s=lasts_s, now=time.time())
    if as_json:
        console.print_json(_members(made) | {"file": str(path), "key": secret})
        return
    typer.echo(secret)
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
    if action is not KeyAction.LIST and not name:
        raise typer.BadParameter(f"`keys {action}` needs the name of the key", param_hint="NAME")
    if action is KeyAction.LIST and name:
        raise typer.BadParameter("`keys list` lists all keys and takes no name", param_hint="NAME")
    if action is KeyAction.MAKE and role is None:
        raise typer.BadParameter("`keys make` needs a role: read, submit or operate", param_hint="--role")


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

    found = read_keys(path, may_be_empty=True)
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
