"""`killable doctor`: check whether this machine can run the server and enforce the limits of jobs.

Runs in: any machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from killable.api.cli import interrupts
from killable.api.cli.diagnosis.check_result import Check
from killable.api.cli.diagnosis.machine_checks import examine
from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.parameters.command_client import open_client
from killable.api.client.errors import Unreachable
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.api.client.client import Client

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(as_json: bool, url: str | None, ray: str | None) -> None:
    with errors.reporting(as_json):
        checks = [*examine(), *_configured(ray)]
        runnable = all(check.status != "fail" for check in checks)
        if runnable and sys.platform == "linux":
            from killable.api.cli.diagnosis.probe_job import self_check

            checks += interrupts.run(self_check())
        here = all(check.status != "fail" for check in checks)
        if url is not None:
            checks += _server(url)
        failed = [check for check in checks if check.status == "fail"]
        if as_json:
            console.print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
        else:
            console.print_table(_table(checks))
            warned = sum(check.status == "warn" for check in checks)
            verdict = f"`killable serve` {'can' if here else 'cannot'} run here"
            numbers = f"{len(checks) - len(failed) - warned} ok, {warned} warn, {len(failed)} fail"
            console.stderr_console().print(f"{verdict}: {numbers}")
        raise click.exceptions.Exit(CommandExit.FAILED if failed else CommandExit.OK)


def _configured(ray: str | None) -> Iterator[Check]:
    """Look at the file of keys and at the cluster, if the configuration of this folder, the environment or `ray` name
    them.
    """
    if sys.platform != "linux":
        return
    from killable.api.cli.diagnosis.cluster_checks import examine_cluster
    from killable.supervisor.configuration.config import ConfigError
    from killable.supervisor.configuration.config import examine as examine_configuration
    from killable.supervisor.http_server_settings import ClusterSettings

    try:
        config = examine_configuration(None, os.environ, {"cluster.ray": ray}, None)[0]
    except ConfigError:
        address = ray or os.environ.get("KILLABLE_CLUSTER__RAY", "")  # `killable check` tells what is wrong
        yield from examine_cluster(ClusterSettings(ray=address), os.environ)
        return
    if config.server.api_keys_file:
        yield from _api_keys(config.server.api_keys_file)
    yield from examine_cluster(config.cluster, os.environ)


def _api_keys(path: str) -> Iterator[Check]:
    from killable.api.http.key_file import KeysInvalid, read_keys

    try:
        keys = read_keys(path)
    except KeysInvalid as error:
        yield Check("API keys", "fail", error.message)
        return
    clear = [key.name for key in keys if key.is_clear]
    if clear:
        advice = "whoever reads the file has them: make others with `killable keys make`, which keeps their digests"
        yield Check("API keys", "warn", f"in clear text in {path}: {', '.join(clear)}", advice)
    elif keys:
        yield Check("API keys", "ok", f"{len(keys)} in {path}, as digests")


def _server(url: str) -> list[Check]:
    """Check whether a server is ready, and which of its pools are degraded."""
    try:
        with open_client(url) as client:
            place = client.address
            readiness = client.ready()
            loaded = _loaded_code(client)
    except Unreachable as error:
        return [Check("server", "fail", error.message)]
    except KillableError as error:
        return [Check("server", "fail", f"{place} accepts no jobs: {error.message}")]
    degraded = "; ".join(str(each) for each in readiness.get("degraded", ()))
    server = Check("server", "ok", f"{place} is ready")
    if degraded:
        server = Check("server", "warn", f"{place} is degraded", degraded)
    return [server, *(_pool(pool) for pool in readiness.get("pools", ()) if pool["detail"]), *loaded]


def _loaded_code(client: Client) -> list[Check]:
    """Check whether the server has the jobs' code as it is now; an older server, or no operator's key, cannot tell."""
    try:
        files = client.reloaded().get("changed_since") or ()
    except Refused:
        return []
    advice = "the code from before runs: `killable reload` rolls over to it"
    return [Check("jobs' code", "warn", f"changed since it was loaded: {', '.join(files)}", advice)] if files else []


def _pool(pool: dict[str, Any]) -> Check:
    name, detail = f"pool {pool['name']}", str(pool["detail"]).rstrip()
    if pool["state"] == "ready":
        advice = 'set start_method = "spawn" for it, or load what starts threads with @preload(each_worker=True)'
        return Check(name, "warn", detail, advice)
    return Check(name, "fail", f"{pool['state']}: {detail}")


def _table(checks: list[Check]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
    table.add_column("CHECK", no_wrap=True)
    table.add_column("")
    table.add_column("FOUND", overflow="fold")
    for check in checks:
        found = Text(check.found)
        if check.advice:
            found.append(f"\n{check.advice}", _STYLES[check.status])
        table.add_row(check.name, Text(check.status, _STYLES[check.status]), found)
    return table
