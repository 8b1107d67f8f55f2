"""The page that is committed is what its sources give."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest

from contract.source import ROOT

SOURCES = ROOT / "api" / "page" / "source"
BUNDLE = ROOT / "api" / "page" / "bundle"
BUILT = ("app.css", "app.js", "index.html")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_bundle_is_of_these_sources() -> None:
    """Cheaply: by the digests that `make page` writes down. After a change of a source: make page."""
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    names = sorted((path.relative_to(SOURCES).as_posix(), path) for path in files)
    whole = "".join(f"{name}\n{digest(path.read_bytes())}\n" for name, path in names)
    told = json.loads((BUNDLE / "digests.json").read_text())
    assert told["sources"] == digest(whole.encode()), "make page was not run"
    assert told["bundle"] == {name: digest((BUNDLE / name).read_bytes()) for name in BUILT}
    assert {path.name for path in BUNDLE.iterdir()} == {*BUILT, "digests.json"}


def test_packages_of_the_page_are_pinned() -> None:
    wanted = json.loads((SOURCES / "package.json").read_text())["devDependencies"]
    locked = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert wanted == {name: locked[f"node_modules/{name}"]["version"] for name in wanted}
    assert all(each["integrity"].startswith("sha512-") for name, each in locked.items() if name)


@pytest.mark.npm
def test_make_page_builds_the_same_bundle() -> None:
    before = {path.name: path.read_bytes() for path in BUNDLE.iterdir()}
    subprocess.run(["make", "page"], cwd=ROOT, check=True)
    assert {path.name: path.read_bytes() for path in BUNDLE.iterdir()} == before
