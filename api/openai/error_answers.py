"""Errors as OpenAI has them: `{"error": {message, type, param, code}}`, made from problem documents; and as Anthropic.

Runs in: api. Pure.

OpenAI's packages try again after 408, 409, 429 and 5xx, unless `x-should-retry` says no: what was killed is not run
again by a client that does not know of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from killable.api.http.error_forms import Form
from killable.api.http.openai_paths import ANTHROPICS, RESPONSES, is_anthropics, is_openais
from killable.api.http.statuses import STATUSES
from killable.api.openai.request_inputs import ALIASES, PLACES

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    "unauthorized": "invalid_api_key",
    "unknown_job_type": "model_not_found",
    "too_many_submissions": "rate_limit_exceeded",
    "invalid": "invalid_value",
    "input.invalid": "invalid_value",
}
_COUNTS = ("prompt_tokens", "context_tokens")
_COUNT = re.compile("[0-9]{1,18}")
"""What a job tells as a count may be anything."""
OF_INPUT = "input"
"""Where a fault is that names a parameter of the job, and no field of the request."""


def _names(kind: str, **others: str) -> dict[str, str]:
    aliases = {name: spelled for spelled, name in ALIASES[kind].items()}
    places = {name: ".".join(map(str, place)) for (of, name), place in PLACES.items() if of == kind}
    return {"tools": "tools", "tool_choice": "tool_choice"} | aliases | places | others


_FIELDS = {RESPONSES: _names("responses", messages="input"), ANTHROPICS: _names("messages", messages="messages")}
"""The fields of requests that are read as chats, by the parameters that they become. What is below one has other places
there: a system prompt is a message, and the result of a tool another. Elsewhere a parameter is a field."""


def error_of(problem: Mapping[str, Any], path: str) -> tuple[int, dict[str, Any], bool]:
    """Return status and body of an error, and whether the same request may succeed later. `path`: what was asked."""
    code, status = str(problem["code"]), int(problem["status"])
    faults = problem.get("faults") or [{}]
    first = faults[0]
    message = problem["detail"]
    param = _field(first, path)
    if first:
        told = [": ".join(filter(None, (_field(each, path), each["message"]))) for each in faults[:3]]
        message = "; ".join(told) + ("; ..." if len(faults) > 3 else "")
    code = first.get("code") or _CODES.get(code, code)
    if status == 422:
        status = 404 if code == "model_not_found" else 400
    error = {
        "message": message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": param or None,
        "code": code,
    }
    facts = {name: int(first[name]) for name in _COUNTS if _COUNT.fullmatch(str(first.get(name)))}
    return status, {"error": error | facts}, bool(problem.get("retryable"))


def error_of_job(job_id: str, error: Mapping[str, Any], path: str) -> tuple[int, dict[str, Any], bool]:
    """Return the same for a job that did not complete; `error` is that of its record."""
    status = STATUSES[error["code"]]
    return error_of({**error, "detail": f"{error['message']} ({job_id})", "status": status}, path)


_ANTHROPICS = {404: "not_found_error", 413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}


def anthropics_of(status: int, error: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's error as Anthropic has them. It has the code, too."""
    kind = _ANTHROPICS.get(status, "api_error" if status >= 500 else _TYPES.get(status, "invalid_request_error"))
    told = {name: error["error"][name] for name in ("message", "code")}
    return {"type": "error", "error": {"type": kind, **told}}


def headers_of(retryable: bool) -> dict[str, str]:
    return {"x-should-retry": "true" if retryable else "false"}


def _field(fault: Mapping[str, str], path: str) -> str:
    """Return the field of a request that a fault is about; empty: none."""
    pointer = fault.get("pointer", "")
    if fault.get("in") == OF_INPUT:
        parameter = pointer.split("/", 2)[1:2]
        for asked, fields in _FIELDS.items():
            if parameter and path.startswith(asked) and parameter[0] in fields:
                return fields[parameter[0]]
    return _param(pointer)


def _param(pointer: str) -> str:
    """Return a JSON pointer as OpenAI writes it: `messages[0].content`."""
    found = ""
    for step in pointer.removeprefix("/").split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        found += f"[{step}]" if step.isdecimal() and found else f".{step}" if found else step
    return found


def as_openais(path: str, problem: Mapping[str, Any]) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Return a problem of an address as OpenAI's error (`error_forms.Form`)."""
    status, error, retryable = error_of(problem, path)
    return status, error, headers_of(retryable)


def as_anthropics(path: str, problem: Mapping[str, Any]) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Return a problem as Anthropic's error."""
    status, error, more = as_openais(path, problem)
    return status, anthropics_of(status, error), more


def form_of(path: str) -> Form | None:
    """Return the form of the errors of an address; None: it is neither OpenAI's nor Anthropic's."""
    if not is_openais(path):
        return None
    return partial(as_anthropics if is_anthropics(path) else as_openais, path)
