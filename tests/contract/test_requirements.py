"""What pyproject.toml requires is what is imported, and uv.lock is of it and names PyPI only."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import packages_distributions
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contract.source import LAYERS, ROOT, Source, check, sources
from contract.test_allowed_imports import STANDARD_LIBRARY, top

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOADED_BY_OTHERS = {"httptools"}
"""Imported by uvicorn's `httptools_impl`, which ours is made of."""
OF_EXTRAS = {
    "supervisor/cluster/ray_launcher.py": "ray",
    "api/cli/server/code_watch.py": "reload",
    "api/mcp": "mcp",
    "api/cli/top": "top",
    "api/cli/commands/top.py": "top",
    "api/cli/bench/picture.py": "picture",
    **{f"supervisor/telemetry/{name}.py": "otel" for name in ("otlp_metrics", "span_building", "telemetry")},
    **{f"workers/authoring/{name}.py": "otel" for name in ("otel_context", "otel_processor")},
}
"""Files and packages that may import what an extra has, too."""
OF_PYTEST = "api/testing/pytest_plugin.py"
"""Only pytest imports it."""


def named(lines: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


installed = functools.cache(packages_distributions)
"""Which distributions a module is of. To read that takes as long as a hundred tests."""


def homes(module: str) -> set[str]:
    """Return the distributions that a module may be of; one that is not installed is its own."""
    return {canonicalize_name(home) for home in installed().get(top(module), [top(module)])}


def foreign(source: Source) -> list[tuple[str, int]]:
    ours = STANDARD_LIBRARY | {"killable"}
    return [(seen.module, seen.line) for seen in source.imports if top(seen.module) not in ours]


@check
def not_required(looked_at: Sequence[Source]) -> list[str]:
    """The built-in job types may import what the extra `models` has, too."""
    found = []
    for each in looked_at:
        builtin = each.name.startswith("workers/builtin/")
        package = each.name.rpartition("/")[0]
        extra = "models" if builtin else OF_EXTRAS.get(package) or OF_EXTRAS.get(each.name, "")
        required = named([*PROJECT["dependencies"], *EXTRAS.get(extra, ())])
        required |= {"pytest"} if each.name == OF_PYTEST else set()
        found += [f"{each.name}:{line} imports {name}" for name, line in foreign(each) if not homes(name) & required]
    return found


def test_what_is_imported_is_required() -> None:
    assert not_required(sources(*LAYERS)) == []


def without_import(required: Iterable[str]) -> set[str]:
    imported = {home for each in sources(*LAYERS) for module, _ in foreign(each) for home in homes(module)}
    return named(required) - imported - LOADED_BY_OTHERS


def test_what_is_required_is_imported() -> None:
    assert without_import(PROJECT["dependencies"]) == set()
    assert not any(Requirement(line).extras for line in PROJECT["dependencies"]), "an extra brings what nobody sees"
    assert without_import(["PyYAML>=6", "rich>=13"]) == {"pyyaml"}, "the control"


# ── uv.lock ──

SIMPLE, FILES = "https://pypi.org/simple", "https://files.pythonhosted.org/packages/"


@functools.cache
def lock() -> dict[str, Any]:
    return tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))


def of_killable() -> dict[str, Any]:
    (package,) = (package for package in lock()["package"] if package["name"] == "killable")
    return package


def stated(line: str, extra: str = "") -> tuple[str, ...]:
    required = Requirement(line)
    name = canonicalize_name(required.name)
    return extra, name, ",".join(sorted(required.extras)), str(required.specifier)


def locked(entry: dict[str, Any]) -> tuple[str, ...]:
    """Return the same of an entry of `requires-dist`; its marker has nothing but the extra."""
    extra = entry.get("marker", "").removeprefix("extra == '").removesuffix("'")
    extras = f"[{','.join(entry['extras'])}]" if "extras" in entry else ""
    return stated(f"{entry['name']}{extras}{entry.get('specifier', '')}", extra)


def test_the_lock_is_of_these_requirements() -> None:
    """Where this fails: make lock."""
    required = {stated(line) for line in PROJECT["dependencies"]}
    required |= {stated(line, extra) for extra, lines in EXTRAS.items() for line in lines}
    assert {locked(entry) for entry in of_killable()["metadata"]["requires-dist"]} == required
    assert lock()["requires-python"] == PROJECT["requires-python"]


def elsewhere(packages: Iterable[dict[str, Any]]) -> list[str]:
    """Packages that do not come from PyPI, and files that no hash vouches for."""
    found = []
    for package in packages:
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        at_home = package["source"] == {"registry": SIMPLE} and files
        if not at_home or any(not file["url"].startswith(FILES) or "sha256:" not in file["hash"] for file in files):
            found.append(package["name"])
    return found


def test_the_lock_names_pypi_only() -> None:
    assert elsewhere(lock()["package"]) == ["killable"]
    assert of_killable()["source"] == {"editable": "."}
    mirrored = {"url": "https://mirror.example/packages/x.whl", "hash": "sha256:0"}
    assert elsewhere([{"name": "x", "source": {"registry": SIMPLE}, "wheels": [mirrored]}]) == ["x"], "the control"
