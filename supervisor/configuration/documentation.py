"""Reads the documentation of the fields of a dataclass or named tuple: the strings under them, which are not kept.

Runs in: any process that builds a schema. Reads the source of the class.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise


def documentation_of(cls: type) -> dict[str, str]:
    """Return the string under each field of a class and of its bases. Fields without one are absent."""
    found: dict[str, str] = {}
    for each in reversed([each for each in cls.__mro__ if each.__module__ != "builtins"]):
        found.update(_documented_in(each.__module__).get(each.__name__, {}))
    return found


@cache
def _documented_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return the strings of each class of a module, which is parsed once: for one class as long as for all of them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {each.name: dict(_strings_under_fields(each)) for each in ast.walk(tree) if isinstance(each, ast.ClassDef)}


def _strings_under_fields(cls: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in pairwise(cls.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())
