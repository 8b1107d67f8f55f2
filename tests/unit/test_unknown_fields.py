"""What of a request's members pydantic is given to find faults in."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from killable.api.http.schemas import AnyJobRequest, JobRequest, OperationRequest
from killable.api.http.unknown_fields import FAULTS_MAX, UNKNOWN_MEMBERS_MAX

REQUEST: TypeAdapter[JobRequest | OperationRequest] = TypeAdapter(AnyJobRequest)
MANY = {f"member {number}": 1 for number in range(10 * FAULTS_MAX)}


@pytest.mark.parametrize(
    "request_body",
    [
        {**MANY, "type": "split"},
        {"type": "split", "limits": MANY},
        {"type": "split", "limits": {"operation_s": MANY}},
        {"type": "split", "tags": MANY},
        {"operation": "split", "tags": MANY},
    ],
    ids=["request", "limits", "operations", "tags", "tags of an operation"],
)
def test_of_many_wrong_members_a_fault_each_is_made_of_a_few(request_body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        REQUEST.validate_python(request_body)
    assert (
        FAULTS_MAX < refused.value.error_count() <= 2 * UNKNOWN_MEMBERS_MAX
    )  # of a mapping both its names and its values


def test_what_is_known_is_kept_wherever_it_stands() -> None:
    with pytest.raises(ValidationError) as refused:
        REQUEST.validate_python({**MANY, "type": "split", "priority": "high"})
    assert ("{type}", "priority") in [each["loc"] for each in refused.value.errors()]


def test_an_input_is_kept_whole() -> None:
    request = REQUEST.validate_python({"operation": "split", **MANY})
    assert request.input == MANY
    assert REQUEST.validate_python({"type": "split", "input": MANY}).input == MANY
