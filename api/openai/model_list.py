"""The models of a server: the job types that answer OpenAI's requests, by kind and by name.

Runs in: api.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from killable.api.openai.request_inputs import Accepting
from killable.supervisor.models import JobType

KIND_OF = {"responses": "chat", "messages": "chat"}
"""What job types are declared with, for the requests that have no kind of their own."""


def accepting(job_types: Sequence[JobType], kind: str) -> dict[str, Accepting]:
    """Return the types that answer requests of one kind, by model; first those whose models also chat."""
    chatting = {each.openai_model for each in job_types if each.openai == "chat"}
    found = [each for each in job_types if each.openai == KIND_OF.get(kind, kind) and each.available]
    found.sort(key=lambda each: each.openai_model not in chatting)
    return {each.openai_model: Accepting(each.name, _members(each)) for each in found}


def _members(job_type: JobType) -> list[str] | None:
    schema = job_type.input_schema
    return list(schema["properties"]) if schema.get("additionalProperties") is False else None


def models_json(job_types: Sequence[JobType], started_at: str) -> list[dict[str, Any]]:
    """Return the models, as `GET /v1/models` lists them."""
    created = int(datetime.datetime.fromisoformat(started_at).timestamp())
    kinds: dict[str, list[str]] = {}
    for each in job_types:
        if each.openai and each.available:
            kinds.setdefault(each.openai_model, []).append(each.openai)
    return [
        {"id": model, "object": "model", "created": created, "owned_by": "killable", "kinds": sorted(found)}
        for model, found in sorted(kinds.items())
    ]
