"""One public meaning for each name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Sequence

from contract.source import LAYERS, Source, check, sources


@check
def names_with_two_meanings(looked_at: Sequence[Source]) -> list[str]:
    """Public classes of one name in two files. The models in api/http/schemas are made from the records they show."""
    everything = {each.name: each for each in (*sources(*LAYERS), *looked_at)}
    homes: dict[str, list[str]] = defaultdict(list)
    for each in everything.values():
        for node in each.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(each.name)
    planted = {each.name for each in looked_at}
    return [f"{name}: {', '.join(files)}" for name, files in homes.items() if len(files) > 1 and planted & {*files}]


def test_no_public_class_name_stands_twice() -> None:
    assert names_with_two_meanings(sources(*LAYERS)) == []
