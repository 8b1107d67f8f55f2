"""Reads the documentation of the fields of a dataclass or named tuple: the strings under them, which are not kept.

Runs in: any process that builds a schema. Reads the source of the class.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise


def documentation_of(cls: type) -> dict[str, str]:
    """Return the string under each field of a class and of its bases. Fields without one are absent."""
    found: dict[str, str] = {}
    for each in reversed([each for each in cls.__mro__ if each.__module__ != "builtins"]):
        found.update(_strings_under_fields(each))
    return found


def _strings_under_fields(cls: type) -> Iterator[tuple[str, str]]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, following in pairwise(body.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())
