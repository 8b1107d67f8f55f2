"""A request to OpenAI's or Anthropic's routes that is wrong in thousands of places costs no more than what is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from killable.api.http.request_faults import FAULTS_MAX
from killable.api.openai.bad_request import BadRequest
from killable.api.openai.messages_request import read_messages
from killable.api.openai.request_inputs import Accepting, Asked, read
from killable.api.openai.responses_api_request import read_response

MODELS = {"m": Accepting("m", ["messages"])}
MANY = 5000
Read = Callable[[Any, Mapping[str, Accepting]], Asked]


class Counted(list[Any]):
    """A list that knows how many of its elements were read."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        for each in super().__iter__():
            self.read += 1
            yield each


@pytest.mark.parametrize("element", [{}, [], {"role": "user", "content": "x", "y": 1}])
@pytest.mark.parametrize(
    ("read", "name", "more"),
    [
        (read_messages, "messages", {"max_tokens": 1}),
        (read_response, "input", {}),
        (partial(read, "chat"), "messages", {}),
    ],
    ids=["messages", "responses", "chat"],
)
def test_reading_ends_with_as_many_faults_as_are_told(read: Read, name: str, more: Any, element: Any) -> None:
    elements = Counted([element] * MANY)
    with pytest.raises(BadRequest) as raised:
        read({"model": "m", name: elements, **more}, MODELS)
    assert len(raised.value.faults) == FAULTS_MAX and elements.read <= FAULTS_MAX
    assert raised.value.faults[0]["pointer"].startswith(f"/{name}/0")


@pytest.mark.parametrize(("read", "name"), [(read_messages, "messages"), (read_response, "input")])
def test_unknown_members_are_counted_too(read: Read, name: str) -> None:
    item = {"role": "user", "content": "x"} | {f"x{number}": 1 for number in range(MANY)}
    for body in ({name: [item]}, {name: "x", "max_tokens": 1} | item):
        with pytest.raises(BadRequest) as raised:
            read({"model": "m", **body}, MODELS)
        assert 0 < len(raised.value.faults) <= FAULTS_MAX
