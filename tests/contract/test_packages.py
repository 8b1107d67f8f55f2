"""Packages and the direction of their imports. Imports for type checkers only count too."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import PurePosixPath

from contract.source import LAYERS, ROOT, Source, check, sources

COMPOSING = ("supervisor/supervisor.py", "api/app.py")
"""Files that put the packages of their layer together: above these, though they lie beside them."""
BELOW = {
    # `supervisor` and `workers` alone: the files directly in these folders, but supervisor.py.
    "workers": (),
    "workers/protocol": ("workers",),
    "workers/authoring": ("workers", "workers/protocol"),
    "workers/commands": ("workers", "workers/protocol", "workers/authoring"),
    "workers/runtime": ("workers", "workers/protocol", "workers/authoring", "workers/commands"),
    "workers/processes": ("workers", "workers/protocol", "workers/runtime"),
    "workers/builtin": ("killable",),
    "supervisor": (),
    "supervisor/linux": ("supervisor", "killable"),
    "supervisor/jobs": ("supervisor",),
    "supervisor/pools": ("supervisor", "supervisor/jobs", "supervisor/linux"),
    "supervisor/files": ("supervisor", "supervisor/linux"),
    "supervisor/attempts": ("supervisor", "supervisor/jobs", "supervisor/pools"),
    "supervisor/telemetry": ("supervisor", "supervisor/jobs", "supervisor/pools", "supervisor/files"),
    "supervisor/journal": ("supervisor", "supervisor/jobs"),
    "supervisor/dispatch": (
        "supervisor", "supervisor/jobs", "supervisor/pools", "supervisor/attempts", "supervisor/telemetry",
        "supervisor/journal", "supervisor/files",
    ),
    "supervisor/supervisor.py": (
        "supervisor", "supervisor/linux", "supervisor/jobs", "supervisor/pools", "supervisor/attempts",
        "supervisor/telemetry", "supervisor/journal", "supervisor/dispatch", "supervisor/files",
    ),
    "supervisor/cluster": (
        "supervisor", "supervisor/linux", "supervisor/jobs", "supervisor/pools", "supervisor/attempts",
        "supervisor/telemetry", "supervisor/supervisor.py",
    ),
    "supervisor/commands": ("supervisor", "supervisor/linux", "supervisor/attempts"),
    "supervisor/configuration": ("supervisor", "supervisor/jobs", "supervisor/linux"),
    "supervisor/executor": (
        "supervisor", "supervisor/linux", "supervisor/jobs", "supervisor/pools", "supervisor/attempts",
        "supervisor/telemetry", "supervisor/supervisor.py",
    ),
    "api": (),
    "api/page": (),
    "api/explanation": (),
    "api/http": ("api/page", "api/explanation"),
    "api/webhooks": ("api/http",),
    "api/client": (),
    "api/openai": ("api/http",),
    "api/app.py": ("api/http", "api/openai", "api/page"),
    "api/mcp": ("api/http", "api/explanation"),
    "api/cli": ("api/cli/declarations", "api/cli/parameters"),
    "api/cli/declarations": ("api/client", "api/cli/parameters"),
    "api/cli/display": ("api/client", "api/explanation"),
    "api/cli/parameters": ("api/client", "api/cli/display", "api/explanation"),
    "api/cli/server": (
        "api/app.py", "api/client", "api/explanation", "api/http", "api/mcp", "api/openai", "api/webhooks", "api/cli",
        "api/cli/display",
    ),
    "api/cli/starter": (),
    "api/cli/diagnosis": ("api/cli/display", "api/explanation"),
    "api/cli/bench": ("killable", "api/client", "api/cli", "api/cli/display", "api/cli/server", "api/explanation"),
    "api/cli/top": ("api/client", "api/cli", "api/cli/display", "api/explanation"),
    "api/cli/commands": (
        "api/client", "api/explanation", "api/http", "api/webhooks", "api/cli", "api/cli/declarations",
        "api/cli/display", "api/cli/parameters", "api/cli/server", "api/cli/diagnosis", "api/cli/bench", "api/cli/top",
    ),
    "api/testing": ("api/client",),
    "api/public": ("workers/authoring", "workers", "supervisor/executor", "api/client", "api/testing"),
}  # fmt: skip
"""What each package may import of its own layer; of the layers below it any package."""


@functools.cache
def _modules() -> dict[str, str]:
    return {_module_of(each.name): each.name for each in sources(*LAYERS)}


def _module_of(name: str) -> str:
    path = PurePosixPath(name).with_suffix("")
    parts = path.parts[:-1] if path.name == "__init__" else path.parts
    return ".".join(("killable", *(parts[2:] if parts[:2] == ("api", "public") else parts)))


@functools.cache
def _target(module: str) -> str | None:
    """Return the file that an imported name lies in; None: it is not ours."""
    modules = _modules()
    while module.partition(".")[0] == "killable":
        if module in modules:
            return modules[module]
        module = module.rpartition(".")[0]
    return None


def package_of(name: str) -> str:
    return name if name in COMPOSING else PurePosixPath(name).parent.as_posix()


def _layer(package: str) -> int:
    return LAYERS.index(package.partition("/")[0])


def _may_import(package: str, imported: str) -> bool:
    if imported == "api/public":
        return "killable" in BELOW[package]
    return imported == package or imported in BELOW[package] or _layer(imported) < _layer(package)


@check
def against_the_arrows(looked_at: Sequence[Source]) -> list[str]:
    found = []
    for each in looked_at:
        package = package_of(each.name)
        if each.room not in LAYERS:
            continue
        if package not in BELOW:
            found.append(f"{each.name}: {package} is no package of the map")
            continue
        targets = {(target, seen.line) for seen in each.imports if (target := _target(seen.module)) is not None}
        found += [
            f"{each.name}:{line} imports {target}"
            for target, line in sorted(targets)
            if not _may_import(package, package_of(target))
        ]
    return found


def test_imports_go_down_only() -> None:
    assert against_the_arrows(sources(*LAYERS)) == []
    assert {package_of(each.name) for each in sources(*LAYERS)} == set(BELOW), "a package that there is no more"


@check
def in_a_circle(looked_at: Sequence[Source]) -> list[str]:
    """Files that import each other, by way of others or not. `killable` itself names what it loads on first use."""
    planted = {each.name: each for each in looked_at}
    everything = {each.name: each for each in sources(*LAYERS)} | planted
    arrows = {
        name: {target for seen in each.imports if (target := _target(seen.module)) not in (None, name)}
        for name, each in everything.items()
        if package_of(name) != "api/public"
    }
    found = []
    for name in planted:
        seen: set[str | None] = set()
        waiting = list(arrows.get(name, ()))
        while waiting:
            target = waiting.pop()
            if target is not None and target not in seen:
                seen.add(target)
                waiting += arrows.get(target, ())
        if name in seen:
            found.append(name)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    assert in_a_circle(sources(*LAYERS)) == []


FILES_AT_THE_TOP_MAX = 10


def test_few_files_stand_outside_of_a_package() -> None:
    assert len(list((ROOT / "supervisor").glob("*.py"))) <= FILES_AT_THE_TOP_MAX
