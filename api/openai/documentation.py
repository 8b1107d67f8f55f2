"""What `/openapi.json` says of OpenAI's routes.

Runs in: api.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from killable.api.http import schemas
from killable.api.http.problems import PROBLEM_TYPE
from killable.api.http.statuses import STATUSES
from killable.api.openai.request_inputs import ALIASES, FIELDS
from killable.workers.error_codes import CODES

Model = type[BaseModel]
_SUBMITTING = (
    *("malformed", "slow_request", "too_large", "unsupported_media_type", "invalid", "unknown_job_type"),
    *("limit_over_cap", "priority_over_max", "queue_full", "tenant_queue_full", "too_many_submissions", "draining"),
    *("deadline_unmeetable", "journal_failed", "idempotency_conflict", "cancelled", "exception", "timeout.run"),
)
_COMMON = ("unauthorized", "forbidden", "misdirected", "busy", "internal")
_NUMBER, _INTEGER, _FLAG = {"type": "number"}, {"type": "integer"}, {"type": "boolean"}
_FORMS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), _NUMBER),
    **dict.fromkeys(("min_p", "repeat_penalty"), _NUMBER),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), _INTEGER),
    **dict.fromkeys(("seed", "top_logprobs", "top_k"), _INTEGER),
    **dict.fromkeys(("parallel_tool_calls", "echo", "add_special", "parse_special", "with_pieces"), _FLAG),
    "logit_bias": {"type": "object"},
    "response_format": {"type": "object"},
    "tools": {"type": "array", "items": {"type": "object"}},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "encoding_format": {"enum": ["float", "base64"]},
}
_TEXT_OR_BLOCKS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_CONTENT: dict[str, dict[str, Any]] = {
    "chat": {"messages": {"type": "array", "items": {"type": "object"}, "minItems": 1}},
    "messages": {"messages": {"type": "array", "items": {"type": "object"}, "minItems": 1}},
    "responses": {"input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}},
    "completions": {"prompt": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}},
    "embeddings": {"input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}},
    "tokenize": {"content": {"type": "string"}},
    "detokenize": {"tokens": {"type": "array", "items": {"type": "integer"}}},
}


def described(description: str, model: Model, *codes: str, error: Model = schemas.OpenAIErrorAnswer) -> dict[str, Any]:
    """Return what a route is described with: its answer, the codes of its refusals, and their form."""
    return {"responses": {200: {"description": description, "model": model}} | _errors((*codes, *_COMMON), error)}


def body_of(kind: str) -> dict[str, Any]:
    """Return the same of a route that submits jobs, with its body."""
    content, whose = _CONTENT[kind], "Anthropic" if kind == "messages" else "OpenAI"
    required = [] if kind in ("tokenize", "detokenize") else ["model", *content]
    members = {"model": {"type": "string"}, **content} | {
        name: {**_FORMS.get(name, {}), "description": f"As {whose} has it, if the model takes it"}
        for name in FIELDS[kind]
    }
    if kind == "messages":
        required.append("max_tokens")
        del members["parallel_tool_calls"]
        members |= {"system": _TEXT_OR_BLOCKS, "stop_sequences": members.pop("stop"), "tool_choice": {"type": "object"}}
    members |= {other: content[name] for other, name in ALIASES.get(kind, {}).items() if name in content}
    streams = kind in ("chat", "completions", "responses", "messages")
    if streams:
        members["stream"] = {"type": "boolean"}
    schema: dict[str, Any] = {"type": "object", "properties": members, "required": required}
    if kind in ("tokenize", "detokenize"):
        others = [other for other, name in ALIASES[kind].items() if name in content]
        schema["anyOf"] = [{"required": [name]} for name in (*content, *others)]
    error = schemas.AnthropicErrorAnswer if kind == "messages" else schemas.OpenAIErrorAnswer
    told = "The answer, or with `stream` its chunks"
    described_ = described(told, schemas.OpenAIObject, *_SUBMITTING, error=error)
    if streams:
        described_["responses"][200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**described_, "openapi_extra": {"requestBody": body}}


def _errors(codes: tuple[str, ...], error: Model) -> dict[int | str, dict[str, Any]]:
    titles: dict[int, list[str]] = {}
    for code in codes:
        status = 400 if STATUSES[code] == 422 else STATUSES[code]
        titles.setdefault(status, []).append(f"`{code}`: {CODES[code].title}")
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": error, "description": " · ".join(dict.fromkeys(lines))} for status, lines in titles.items()
    }
    if 400 in found:  # what is no HTTP is refused before anybody knows whose address it has
        found[400]["content"] = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return found | {"default": {"model": error, "description": "Any other error"}}
