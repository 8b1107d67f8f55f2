"""The project's source as trees: what the contracts are checked on, as functions that return what offends.

A test of one asserts that nothing of ours does; `test_controls` plants an offence for each, which it has to name.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("workers", "supervisor", "api")


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    at_once: bool
    """When the module is imported; not when a function is called, nor for type checkers only."""


@dataclass(frozen=True)
class Source:
    path: Path
    planted: str | None = None
    """What it would say, instead of what it says."""

    @property
    def name(self) -> str:
        """As `supervisor/pools/pool.py`."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def room(self) -> str:
        return self.name.partition("/")[0]

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8") if self.planted is None else self.planted

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def docstring(self) -> str:
        return " ".join((ast.get_docstring(self.tree) or "").split())

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node

    @functools.cached_property
    def imports(self) -> list[Import]:
        later = {id(node) for block in (*self.functions(), *self._for_checkers()) for node in ast.walk(block)}
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                names = [f"{module}.{alias.name}" for alias in node.names]
            else:
                continue
            found += [Import(name, node.lineno, id(node) not in later) for name in names]
        return found

    def _for_checkers(self) -> Iterator[ast.If]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                yield node

    @functools.cached_property
    def calls(self) -> list[tuple[str, int]]:
        """What is called, as it is written (`os.kill`, `self._loop.time`), and the line.

        Whatever name an import gives it: `from os import kill as end` makes `os.kill` of `end`.
        """
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                head, dot, rest = ast.unparse(node.func).partition(".")
                found.append((self._origins.get(head, head) + dot + rest, node.lineno))
        return found

    @functools.cached_property
    def _origins(self) -> dict[str, str]:
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update({alias.asname: alias.name for alias in node.names if alias.asname is not None})
            elif isinstance(node, ast.ImportFrom):
                found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        return found


Check = Callable[[Sequence[Source]], list[str]]
CHECKS: list[Check] = []


def check(offences: Check) -> Check:
    """Enter it among those that need a control."""
    CHECKS.append(offences)
    return offences


@functools.cache
def sources(*layers: str) -> list[Source]:
    found = [Source(path) for layer in layers for path in sorted((ROOT / layer).rglob("*.py"))]
    assert found
    return found


def source(name: str) -> Source:
    return Source(ROOT / name)
