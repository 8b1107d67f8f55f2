"""How long a file and a function may be: they have to fit in the head."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contract.source import LAYERS, Source, check, sources

LINES_MAX, FUNCTION_LINES_MAX = 600, 60


@check
def too_long(looked_at: Sequence[Source]) -> list[str]:
    files = [each.name for each in looked_at if len(each.text.splitlines()) > LINES_MAX]
    functions = [
        f"{each.name}:{node.name}"
        for each in looked_at
        for node in each.functions()
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    return files + functions


@pytest.mark.parametrize("room", LAYERS)
def test_a_file_fits_in_the_head(room: str) -> None:
    assert too_long(sources(room)) == []
