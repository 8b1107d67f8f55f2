"""Job types as the pools report them: each name, and each operation, has one owner."""

from __future__ import annotations

from typing import Any

import pytest

from killable.supervisor.pools.job_types import DuplicateType, JobTypes
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.errors import Refused

TEXT, LLM = PoolSpec("text", ("a",)), PoolSpec("llm", ("b",))


def reported(name: str, *operations: str) -> dict[str, Any]:
    return {
        "name": name, "description": "", "input_schema": {}, "limits": {}, "streams": False, "available": True,
        "unavailable_reason": "", "operations": list(operations),
    }  # fmt: skip


def test_what_a_pool_reports_replaces_what_it_had_reported() -> None:
    types = JobTypes(Settings(pools=()))
    types.replace(TEXT, [reported("split", "cut"), reported("join")])
    types.replace(LLM, [reported("generate", "infer")])
    types.replace(TEXT, [reported("split", "cut", "join")])
    assert [(each.name, each.pool, each.operations) for each in types.all()] == [
        ("generate", "llm", ("infer",)),
        ("split", "text", ("cut", "join")),
    ]
    assert types.get("split", ()).pool == "text"
    with pytest.raises(Refused, match="there are: generate, split; broken pools: gpu"):
        types.get("join", ["gpu"])


def test_two_pools_with_one_name_are_refused() -> None:
    types = JobTypes(Settings(pools=()))
    types.replace(TEXT, [reported("split")])
    with pytest.raises(DuplicateType, match="two pools have a job type 'split': text and llm"):
        types.replace(LLM, [reported("split")])


@pytest.mark.row("A2")
@pytest.mark.parametrize(
    ("name", "operations", "shared"),
    [("generate", ["infer"], "infer"), ("generate", ["split"], "split"), ("infer", [], "infer")],
)
def test_two_types_that_answer_to_one_operation_are_refused(name: str, operations: list[str], shared: str) -> None:
    types = JobTypes(Settings(pools=()))
    types.replace(TEXT, [reported("split", "infer")])
    with pytest.raises(DuplicateType) as raised:
        types.replace(LLM, [reported(name, *operations)])
    assert str(raised.value) == (
        f"two job types answer to {shared!r}: 'split' of pool text and {name!r} of pool llm;"
        " an operation belongs to one of them"
    )
