"""The page about the peers, and README, say what `make peers` has measured: the figures of benchmarks/peers.json."""

from __future__ import annotations

import copy
import importlib.util
from types import ModuleType
from typing import Any

import pytest

from contract.source import ROOT


def load_page() -> ModuleType:
    """Import what writes them. Its folder's name is also that of a folder of tests."""
    spec = importlib.util.spec_from_file_location("peers_page", ROOT / "benchmarks" / "executor" / "page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE: Any = load_page()
MEASURED = PAGE.read()


def in_documents(document: Any) -> list[bool]:
    """Whether the page and README have the figures of this document. Where they have not: make peers."""
    return [PAGE.figures(document) in PAGE.PAGE.read_text(), PAGE.readme(document) in PAGE.README.read_text()]


def figure(document: Any, what: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in document["figures"] if each["what"] == what)
    return found


def test_page_and_readme_have_the_measured_figures() -> None:
    assert in_documents(MEASURED) == [True, True]
    assert set(PAGE.README_LINES) <= {each["what"] for each in MEASURED["figures"]}


def test_another_figure_is_found() -> None:
    other = copy.deepcopy(MEASURED)
    figure(other, "no-op calls, results fetched")["values"]["Pebble"] = 1.5
    assert in_documents(other) == [False, False], "the control"


def test_every_peer_has_a_version_and_a_figure_or_a_word_for_each_way_to_stop() -> None:
    libraries = {"killable", "ProcessPoolExecutor", "loky", "Pebble", "deadpool"}
    assert libraries <= set(MEASURED["peers"])
    assert all(peer["version"] for peer in MEASURED["peers"].values())
    for each in MEASURED["figures"]:
        if each["section"] == "Stopping":
            assert libraries <= set(each["values"]), each["what"]


def comparison(at_least: bool, **values: float | str) -> dict[str, Any]:
    return {"section": "Stopping", "what": "a", "unit": "ms", "at_least": at_least, "values": values}


@pytest.mark.parametrize(
    ("compared", "best"),
    [
        (comparison(False, killable=2.0, Pebble=1.0, loky=0.5), "loky"),
        (comparison(False, killable=2.0, Pebble=3.0), None),
        (comparison(False, killable=2.0, Pebble="no way"), None),
        (comparison(True, killable=2.0, Pebble=3.0), "Pebble"),
        (comparison(False, **{"killable": 2.0, "raw kill": 1.0}), None),
    ],
)
def test_what_is_lost_is_said(compared: dict[str, Any], best: str | None) -> None:
    assert PAGE.better(compared) == best
    document = {**MEASURED, "figures": [compared]}
    lost = PAGE.figures(document).partition("## Where another one is better")[2].partition("\n## ")[0]
    assert (f"| {best} |" in lost) == (best is not None)
    assert ("In nothing that was measured." in lost) == (best is None)


def test_task_systems_have_a_table_of_their_own_where_they_were_measured() -> None:
    other = copy.deepcopy(MEASURED)
    other["peers"]["Celery"] = {**other["peers"]["Pebble"], "is_system": True}
    figure(other, "no-op calls, results fetched")["values"]["Celery"] = 169.0
    before, _, table = PAGE.figures(other).partition("## Task systems")
    assert "| Celery |" not in before and "| killable | Celery |" in table and "| 169 |" in table
    without = {**MEASURED, "peers": {name: peer for name, peer in MEASURED["peers"].items() if not peer["is_system"]}}
    assert "## Task systems" not in PAGE.figures(without)
