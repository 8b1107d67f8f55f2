"""Nothing of ours decides by what a message says: codes, types and fields decide, and texts are for people."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

import pytest

from contract.source import LAYERS, Source, check, sources

TEXTS = {"message", "detail"}
"""Members, keys and variables in which the sentences for people are."""
CALLED = {"error", "exc", "exception", "failure", "refused"}
"""What exceptions are called, besides the names that an `except` gives them."""
LOOKING = {"startswith", "endswith", "find", "rfind", "index", "count"}
SEARCHING = {"match", "fullmatch", "search", "findall", "finditer", "split", "sub"}


@check
def deciding_by_a_text(looked_at: Sequence[Source]) -> list[str]:
    return [
        f"{each.name}:{line} {ast.unparse(text)}"
        for each in looked_at
        for exceptions in (CALLED | _caught(each.nodes),)
        for text, line in _looked_into(each.nodes)
        if _is_message(text, exceptions)
    ]


def _caught(nodes: Sequence[ast.AST]) -> set[str]:
    return {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name is not None}


def _looked_into(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.expr, int]]:
    """Yield each expression that is compared, searched or matched."""
    for node in nodes:
        match node:
            case ast.Compare(ops=ops) if any(isinstance(op, (ast.In, ast.NotIn, ast.Eq, ast.NotEq)) for op in ops):
                yield from ((side, node.lineno) for side in (node.left, *node.comparators))
            case ast.Call(func=ast.Attribute(value=value, attr=attr)):
                if attr in LOOKING:
                    yield value, node.lineno
                elif attr in SEARCHING:
                    yield from ((argument, node.lineno) for argument in node.args)
            case ast.Match(subject=subject) if not isinstance(subject, ast.Name):  # `match message`: of a pipe's
                yield subject, node.lineno


def _is_message(text: ast.expr, exceptions: set[str]) -> bool:
    """Also one that was made lower, stripped, cut or put in another's place first."""
    match text:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in TEXTS
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key in TEXTS
        case ast.Subscript(value=ast.Attribute(attr="args")):
            return True
        case ast.Subscript(value=value):
            return _is_message(value, exceptions)
        case ast.Call(func=ast.Name(id="str" | "repr" | "format_exception_only"), args=[argument, *_]):
            named = isinstance(argument, ast.Name) and argument.id in exceptions
            return named or _is_message(argument, exceptions)
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(key)), *_]):
            return key in TEXTS
        case ast.Call(func=ast.Attribute(value=value)):
            return _is_message(value, exceptions)
        case ast.BoolOp(values=values):
            return any(_is_message(value, exceptions) for value in values)
        case ast.JoinedStr(values=values):
            return any(_is_message(part.value, exceptions) for part in values if isinstance(part, ast.FormattedValue))
        case ast.NamedExpr(value=value):
            return _is_message(value, exceptions)
    return False


@pytest.mark.row("B3")
def test_nothing_decides_by_what_a_message_says() -> None:
    assert deciding_by_a_text(sources(*LAYERS)) == []
