"""Reads the body of an OpenAI request, in the event loop if it is small, else in a process of the check pool.

Runs in: api.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from killable.api.http import schemas
from killable.api.http.bodies import SMALL_BYTES_MAX
from killable.api.http.check_pool import CheckPool
from killable.api.http.request_faults import FAULTS_MAX, invalid
from killable.api.openai.bad_request import BadRequest
from killable.api.openai.parsing import parsed, read_parsed
from killable.api.openai.request_inputs import NO_MODEL, Accepting, Asked
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

JOBS, READ = "killable.api.openai.check_pool_job", "read_openai"
"""What reads a large body, in a process of the check pool."""


async def read_request(
    kind: str, body: bytes, accepting: Mapping[str, Accepting], pool: CheckPool, tenant: str
) -> tuple[Asked, Sequence[Any]]:
    """Return the request, and the inputs of its jobs: objects, or JSON as bytes that were made elsewhere. Raise
    Refused.
    """
    if len(body) > SMALL_BYTES_MAX:
        head, rest = await _read_elsewhere(kind, body, accepting, pool, tenant)
        if "malformed" in head:
            raise Refused(head["malformed"], code="malformed")
        if "faults" in head:
            raise _refusal(head["faults"])
        return Asked(**head["asked"], inputs=[], told=rest[0]), rest[1:]
    try:
        asked = read_parsed(kind, parsed(body), accepting)
    except BadRequest as error:
        raise _refusal(error.faults) from error
    return asked, asked.inputs


async def _read_elsewhere(
    kind: str, body: bytes, accepting: Mapping[str, Accepting], pool: CheckPool, tenant: str
) -> tuple[dict[str, Any], Sequence[bytes]]:
    """Return what `check_pool_job.read_openai` does. Raise Refused: input.invalid, busy."""
    members = dump_json({"kind": kind, "accepting": dict(accepting)})[:-1]
    result = await pool.run(READ, b'%b,"body":{"base64":"%s"}}' % (members, base64.b64encode(body)), tenant)
    head, *rest = base64.b64decode(result.removeprefix(b'{"base64":"').removesuffix(b'"}')).split(b"\n")
    return json.loads(head), rest


def _refusal(faults: list[dict[str, str]]) -> Refused:
    refused = invalid(faults[:FAULTS_MAX], more=len(faults) > FAULTS_MAX)
    if faults[0].get("code") == NO_MODEL:
        return Refused(refused.message, code="unknown_job_type", faults=faults[:1])
    return refused


def options_of(asked: Asked) -> schemas.OpenAIOptions:
    """Return how the jobs of a request are to run. Raise RequestValidationError."""
    try:
        return schemas.OpenAIOptions.model_validate(asked.options)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        # Its tags come from the metadata.
        renamed = [("metadata", *each["loc"][1:]) if each["loc"][0] == "tags" else each["loc"] for each in faults]
        raise RequestValidationError(
            [{**each, "loc": ("body", *loc)} for each, loc in zip(faults, renamed, strict=True)]
        ) from error
