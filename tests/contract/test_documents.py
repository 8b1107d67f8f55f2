"""The documents for maintainers name files that there are, and keep their form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract.source import ROOT
from contract.test_packages import BELOW, COMPOSING

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
INDEX = ROOT / "docs" / "decisions" / "index.md"
DOCUMENTS = [
    *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    ROOT / "docs" / "versions.md", INDEX, *DECISIONS,
]  # fmt: skip
WORDS_MAX = 2000
SECTIONS = ["## Context", "## Decision", "## Consequences"]
FOLDERS = ("workers", "supervisor", "api", "tests", "benchmarks", "docs", ".ci")
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]
NAMES = {part for file in FILES for part in Path(file).parts[:-1]}
"""Of folders."""


def missing_files(text: str) -> list[str]:
    """Return the paths in code style that end no path of a file or folder of ours."""
    named = re.findall(r"`([\w.]+(?:/[\w.]+)*/?)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    paths = {name for name in named if name.endswith(".py") or ("/" in name and name.partition("/")[0] in NAMES)}
    return sorted(name for name in paths if not _is_there(name))


def _is_there(name: str) -> bool:
    if name.endswith("/"):
        return any(f"/{name}" in f"/{file}" for file in FILES)
    return any(f"/{file}".endswith((f"/{name}", f"/{name}.py")) or f"/{name}/" in f"/{file}" for file in FILES)


def missing_targets(text: str, folder: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    return [link for link in links if "://" not in link and not (folder / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text("utf-8")
    assert missing_files(text) == []
    assert missing_targets(text, document.parent) == []


def test_what_is_missing_is_found() -> None:
    assert missing_files("`pools/pool`, `pool.py`, `supervisor/pools/`, `pools/pond.py`, `supervisor/ponds/`") == [
        "pools/pond.py", "supervisor/ponds/",
    ]  # fmt: skip
    assert missing_targets("[here](ARCHITECTURE.md) [there](ARCHITEXTURE.md#states)", ROOT) == ["ARCHITEXTURE.md"]


def packages_of(text: str) -> list[str]:
    """Return the packages that have a line in the map."""
    return re.findall(r"^\| `([a-z/]+)/` \|", text.partition("## Packages")[2].partition("\n## ")[0], re.MULTILINE)


def test_the_map_has_a_line_for_each_package() -> None:
    packages = packages_of(ARCHITECTURE.read_text("utf-8"))
    assert len(packages) == len(set(packages))
    assert set(packages) == set(BELOW) - {*COMPOSING, "api"}


def test_the_architecture_is_short() -> None:
    assert len(ARCHITECTURE.read_text("utf-8").split()) <= WORDS_MAX


@pytest.mark.parametrize("page", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_form(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    assert lines[0].startswith(f"# {page.name[:4]}. ")
    assert re.fullmatch(r"Status: (accepted|superseded by \d{4}), \d{4}-\d\d-\d\d", lines[2])
    assert [line for line in lines if line.startswith("## ")] == SECTIONS


def listed(text: str) -> list[str]:
    return re.findall(r"^\| \[(\d{4})\]\(\1-[a-z-]+\.md\) \|", text, re.MULTILINE)


def test_the_index_lists_every_decision_once() -> None:
    assert listed(INDEX.read_text("utf-8")) == [page.name[:4] for page in DECISIONS]
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def naming_one_machine(text: str) -> bool:
    return f"{Path.home()}/" in text or f"{ROOT}/" in text


def test_no_document_has_a_path_of_one_machine() -> None:
    assert not [document.name for document in DOCUMENTS if naming_one_machine(document.read_text("utf-8"))]
    assert naming_one_machine(f"see {ROOT}/notes"), "the control"
