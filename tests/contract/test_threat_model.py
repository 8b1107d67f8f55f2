"""SECURITY.md: one table, and each line of it names tests that exist."""

from __future__ import annotations

import ast
import re

from contract.source import ROOT

TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
COLUMNS = ["who", "is trusted with", "what holds", "what does not hold", "test"]
NAMED = re.compile(r"\[(test_\w+)\]\((tests/[\w/]+\.py)\)")


def without_test(rows: list[list[str]]) -> list[str]:
    """Lines that name no test, or one that is not there."""
    found = []
    for row in rows:
        named = NAMED.findall(row[-1])
        for name, path in named:
            file = ROOT / path
            tree = ast.parse(file.read_text("utf-8")) if file.is_file() else ast.Module([], [])
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            if name not in {each.name for each in tree.body if isinstance(each, functions)}:
                found.append(f"{row[0]}: {path} has no {name}")
        if not named or NAMED.sub("", row[-1]).strip(", "):
            found.append(f"{row[0]}: {row[-1] or 'no test'}")
    return found


def test_each_line_of_the_threat_model_has_its_test() -> None:
    head, rule, *rows = ROWS
    assert head == COLUMNS and set("".join(rule)) == {"-"}
    assert all(len(row) == len(COLUMNS) and row[0] and row[1] and row[2] for row in rows)
    assert without_test(rows) == []
    control = ["a", "b", "c", "", "[test_nothing](tests/contract/test_threat_model.py)"]
    assert without_test([control, ["a", "b", "c", "", "tested"]]) == [
        "a: tests/contract/test_threat_model.py has no test_nothing", "a: tested",
    ]  # fmt: skip
