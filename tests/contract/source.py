"""The project's source as trees: what the contracts are checked on."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
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

    @property
    def name(self) -> str:
        """As `supervisor/pool.py`."""
        return self.path.relative_to(ROOT).as_posix()

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

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

    def calls(self) -> Iterator[tuple[str, int]]:
        """Yield what is called, as it is written (`os.kill`, `self._loop.time`), and the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node.lineno


def sources(*layers: str) -> list[Source]:
    found = [Source(path) for layer in layers for path in sorted((ROOT / layer).rglob("*.py"))]
    assert found
    return found


def source(name: str) -> Source:
    return Source(ROOT / name)
