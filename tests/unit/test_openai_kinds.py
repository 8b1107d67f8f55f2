"""What `@job(openai=...)` demands of a function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from killable.supervisor.pools.job_types import DuplicateType, JobTypes
from killable.supervisor.settings import PoolSpec, Settings
from killable.workers.authoring import job_functions
from killable.workers.authoring.job_functions import DeclarationError, job


@pytest.fixture(autouse=True)
def no_jobs() -> Iterator[None]:
    job_functions.clear()
    yield
    job_functions.clear()


def says(messages: list[Any]) -> Iterator[str]:
    yield ""


def test_the_model_is_named_as_the_type_by_default() -> None:
    job("talk", openai="chat")(says)
    (row,) = job_functions.catalogue()
    assert (row["openai"], row["openai_model"]) == ("chat", "talk")


def takes_nothing() -> Iterator[str]:
    yield ""


def needs_more(messages: list[Any], mood: str) -> Iterator[str]:
    yield mood


def returns(messages: list[Any]) -> str:
    return ""


def one_way(input: list[str]) -> Iterator[list[float]]:
    yield []


def yields_tokens(content: str) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function, options, why",
    [
        (says, {"openai": "chatting"}, "openai is chat, completions, embeddings, tokenize, detokenize"),
        (says, {"openai": ["chat"]}, "openai is chat"),
        (says, {"openai_model": "m"}, "openai is chat"),
        (says, {"openai": "chat", "openai_model": "a b"}, "openai_model is the name of a model"),
        (says, {"openai": "chat", "openai_model": 5}, "openai_model is the name of a model"),
        (says, {"openai": "completions"}, "needs the parameter prompt"),
        (takes_nothing, {"openai": "chat"}, "needs the parameter messages"),
        (needs_more, {"openai": "chat"}, "mood needs a default"),
        (returns, {"openai": "chat"}, "needs a function that yields its answer"),
        (one_way, {"openai": "embeddings"}, "needs the parameter encoding_format"),
        (yields_tokens, {"openai": "tokenize"}, "needs a function that returns its answer"),
    ],
)
def test_a_function_that_cannot_answer_is_refused(function: Any, options: dict[str, Any], why: str) -> None:
    with pytest.raises(DeclarationError, match=why) as refused:
        job("refused", **options)(function)
    assert f"test_openai_kinds:{function.__name__}" in str(refused.value)
    assert job_functions.catalogue() == []


def test_a_model_has_one_type_for_each_kind() -> None:
    job("one", openai="chat", openai_model="m")(says)

    def other(messages: list[Any]) -> Iterator[str]:
        yield ""

    with pytest.raises(DeclarationError, match=r"two job types answer openai='chat' as 'm': 'one', .* and 'two'"):
        job("two", openai="chat", openai_model="m")(other)
    job("two", openai="chat", openai_model="n")(other)
    first, second = job_functions.catalogue()
    types = JobTypes(Settings(pools=()))
    types.replace(PoolSpec("a", ("x",)), [first])
    with pytest.raises(DuplicateType, match="two job types answer openai='chat' as 'm': 'one' of pool a and 'two'"):
        types.replace(PoolSpec("b", ("y",)), [second | {"openai_model": "m"}])
