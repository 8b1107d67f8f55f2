"""Finds faults that no single value shows: missing files, limits over their caps, bounds that exclude each other.

Runs in: supervisor, before it starts. Looks at files, changes nothing.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from killable.supervisor.configuration.absolute_paths import PATHS, absolute_path, absolute_python, has_no_home
from killable.supervisor.configuration.faults import ConfigFault, shown
from killable.supervisor.configuration.layers import is_path
from killable.supervisor.configuration.schema import NO_LIMIT, CapsTable, FileTable, PoolTable
from killable.supervisor.http_server_settings import ClusterSettings, ServerSettings, WebhookSettings
from killable.supervisor.jobs.effective_limits import is_over
from killable.supervisor.linux.user_accounts import AccountError, account
from killable.supervisor.settings import usable_processors
from killable.workers.authoring.limits_and_caps import flat


def value_faults(
    tables: FileTable, server: ServerSettings, webhooks: WebhookSettings, folder: Path, doubted: Collection[str]
) -> Iterator[ConfigFault]:
    """Yield every such fault, except those that depend on a `doubted` key, which has a fault already."""
    cluster = ClusterSettings(**dict(tables.cluster))
    yield from _homes(tables)
    private = list(_private(server, webhooks, has_files=not cluster.ray))
    for name, pool in tables.pools.items():
        yield from _modules(name, pool, folder)
        yield from _python(name, pool, folder)
        yield from _affinity(name, pool)
        yield from _account(name, pool)
        yield from _sandbox(name, pool, private, folder)
    server_caps = configured_caps(tables.caps)
    caps = {limit: (cap, f"caps.{limit}") for limit, cap in server_caps.items() if f"caps.{limit}" not in doubted}
    yield from _over_caps("limits", tables.limits.given(), caps)
    for name, job in tables.jobs.items():
        where = f"jobs.{name}.caps"
        yield from _over_caps(where, job.caps.given(), caps)
        own = {limit: (cap, f"{where}.{limit}") for limit, cap in configured_caps(job.caps).items()}
        lower = {limit: min(own.get(limit, cap), cap) for limit, cap in (own | caps).items()}
        lower = {limit: cap for limit, cap in lower.items() if f"{where}.{limit}" not in doubted}
        yield from _over_caps(f"jobs.{name}.limits", job.limits.given(), lower)
    if not {"server.queue_bytes_max", "server.body_bytes_max"} & set(doubted):
        yield from _queue_below_body(server)
    yield from _networks("server.trusted_proxies", server.trusted_proxies)
    yield from _networks("webhooks.allow", webhooks.allow)
    if not {"cluster.lease_s", "cluster.poll_s"} & set(doubted):
        yield from _lease_below_polls(cluster)


def configured_caps(table: CapsTable) -> dict[str, float]:
    """Return the caps that a table sets, without those that it removes (`none`)."""
    return {name: cap for name, cap in table.given().items() if cap is not None}


def _homes(tables: FileTable) -> Iterator[ConfigFault]:
    for section, names in PATHS.items():
        for name in names:
            path = getattr(getattr(tables, section), name)
            if has_no_home(path):
                yield ConfigFault(
                    f"{section}.{name}", "expected a path in the home of a user that there is", shown(path)
                )


def _modules(name: str, pool: PoolTable, folder: Path) -> Iterator[ConfigFault]:
    key = f"pools.{name}.module"
    for module in pool.module:
        if is_path(module) and not Path(absolute_path(module, folder)).is_file():
            yield ConfigFault(key, "expected a Python file", f"{shown(module)}: no such file in {folder}")
        elif not is_path(module) and not all(part.isidentifier() for part in module.split(".")):
            yield ConfigFault(key, "expected a module name or a path ending in .py", shown(module))


def _python(name: str, pool: PoolTable, folder: Path) -> Iterator[ConfigFault]:
    if pool.python and shutil.which(absolute_python(pool.python, folder)) is None:
        found = f"{shown(pool.python)}: {'no such program' if '/' in pool.python else 'not on PATH'}"
        yield ConfigFault(f"pools.{name}.python", "expected a Python interpreter", found)


def _affinity(name: str, pool: PoolTable) -> Iterator[ConfigFault]:
    usable = usable_processors()
    if missing := sorted(set(pool.affinity) - usable):
        there = f"expected processors that this server may use: {', '.join(map(str, sorted(usable)))}"
        yield ConfigFault(f"pools.{name}.affinity", there, shown(missing))


def _account(name: str, pool: PoolTable) -> Iterator[ConfigFault]:
    try:
        account(pool.user, pool.group)
    except AccountError as error:
        expected = f"expected a {error.key} that workers can run as"
        yield ConfigFault(f"pools.{name}.{error.key}", expected, f"{shown(getattr(pool, error.key))}: {error}")


def _sandbox(name: str, pool: PoolTable, private: Sequence[Path], folder: Path) -> Iterator[ConfigFault]:
    sandbox = pool.sandbox
    if sandbox.network and sandbox.shared_memory and sandbox.write is None and sandbox.read is None:
        return
    from killable.workers.runtime import private_memory
    from killable.workers.runtime.sandbox import why_no_file_rules, why_no_network_rule  # Linux's only

    if not sandbox.network and (why := why_no_network_rule()):
        yield ConfigFault(f"pools.{name}.sandbox.network", "expected true, or a machine that can forbid it", why)
    if not sandbox.shared_memory and (why := private_memory.why_not()):
        there = "expected true, or a server that can give it"
        yield ConfigFault(f"pools.{name}.sandbox.shared_memory", there, why)
    for key, paths in (("write", sandbox.write), ("read", sandbox.read)):
        if paths is not None and (why := why_no_file_rules()):
            yield ConfigFault(f"pools.{name}.sandbox.{key}", "expected no list, or a machine that can keep it", why)
        for path in paths or ():
            if not Path(absolute_path(path, folder)).exists():
                found = f"{shown(path)}: no such file or folder in {folder}"
                yield ConfigFault(f"pools.{name}.sandbox.{key}", "expected paths that exist", found)
    yield from _exposed(name, pool, private, folder)


def _private(server: ServerSettings, webhooks: WebhookSettings, *, has_files: bool) -> Iterator[Path]:
    """Yield what no job may reach: secrets, and what the server knows of all its clients."""
    for path in (server.api_keys_file, webhooks.secrets_file, server.journal, server.audit_log):
        if path:
            yield Path(path)
    if has_files and server.files_bytes_max > 0:  # a temporary folder has a name of its own in each run
        yield Path(server.lasting_files_folder or f"{tempfile.gettempdir()}/killable-*")


def _exposed(name: str, pool: PoolTable, private: Sequence[Path], folder: Path) -> Iterator[ConfigFault]:
    """Yield a fault for a list that would let jobs out of their sandbox.

    What a job has put into a folder of modules would be imported by the next zygote, which is in none.
    """
    code = [
        folder,
        *(Path(absolute_path(module, folder)) for module in pool.module if is_path(module)),
        Path(sys.prefix),
    ]
    kept_from = {"write": (pool.sandbox.write, [*code, *private]), "read": (pool.sandbox.read, private)}
    for key, (paths, kept) in kept_from.items():
        for path in paths or ():
            above = Path(absolute_path(path, folder)).resolve()
            inside = next((each for each in kept if each.resolve().is_relative_to(above)), None)
            if inside is not None:
                expected = f"expected paths that jobs may {key}, without {inside} in them"
                yield ConfigFault(f"pools.{name}.sandbox.{key}", expected, shown(path))


def _over_caps(where: str, limits: Mapping[str, Any], caps: Mapping[str, tuple[float, str]]) -> Iterator[ConfigFault]:
    for name, whole_name, value in flat(limits):
        cap, key = caps.get(name, (None, ""))
        if cap is not None and is_over(value, cap):
            found = shown(NO_LIMIT if value is None else value)
            yield ConfigFault(f"{where}.{whole_name}", f"expected at most {cap:g}, its cap (raise {key} too)", found)


def _queue_below_body(server: ServerSettings) -> Iterator[ConfigFault]:
    """Yield a fault if a body may be larger than the queue: its client would be asked to retry for ever."""
    if server.body_bytes_max > server.queue_bytes_max:
        expected = f"expected at most server.queue_bytes_max, {server.queue_bytes_max} bytes (raise that too)"
        yield ConfigFault("server.body_bytes_max", expected, shown(server.body_bytes_max))


def _lease_below_polls(cluster: ClusterSettings) -> Iterator[ConfigFault]:
    if cluster.poll_s > cluster.lease_s / 3:
        expected = f"expected at most a third of cluster.lease_s, {cluster.lease_s / 3:g}"
        yield ConfigFault("cluster.poll_s", expected, f"{cluster.poll_s:g}")


def _networks(key: str, addresses: Iterable[str]) -> Iterator[ConfigFault]:
    for address in addresses:
        try:
            ip_network(address)
        except ValueError as error:
            expected = 'expected IP addresses or networks, like "127.0.0.1" or "10.0.0.0/8"'
            yield ConfigFault(key, expected, f"{shown(address)}: {error}")
