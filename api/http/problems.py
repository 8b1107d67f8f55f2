"""Error answers: RFC 9457 problem details made from codes, refusals and the exceptions of FastAPI and Starlette.

Runs in: api.

No answer contains a traceback. None repeats what the client sent, except the names of members, which are cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http import rate_headers
from killable.api.http.methods import allowed
from killable.api.http.record_json import record_json
from killable.api.http.request_faults import FAULTS_MAX, cut, fault, invalid
from killable.api.http.request_patterns import CORRELATION_ID, PATTERNS
from killable.api.http.schemas import BODY_FORMS
from killable.api.http.statuses import STATUSES
from killable.api.http.unknown_fields import UNKNOWN_MEMBERS_MAX
from killable.supervisor.records import JobRecord
from killable.workers.error_codes import CODES
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = {429: 1, 503: 5}
"""Default if the refusal has no `retry_after_s`: a queue moves within a second, a start or a drain takes longer."""

ID = re.compile(r"job-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|w-\d{1,18}")
"""An answer repeats an id from the request only if it has this form."""
FILE = re.compile(r"file-[0-9a-f]{32}")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Nor the name of a node."""

_CODE_OF_STATUS = {
    400: "malformed",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_request",
    413: "too_large",
    415: "unsupported_media_type",
    503: "busy",
}
_DETAILS = {
    "malformed": "The body cannot be read as JSON",
    "not_found": "There is no resource at this address; /openapi.json lists all of them",
}
_UNKNOWN = {
    "unknown_job": "There is no such job: the ids of jobs are job- and a UUID (/v1/jobs lists them)",
    "unknown_file": "There is no such file: the ids of files are file- and 32 digits (/v1/files lists them)",
    "unknown_node": "There is no such node (/v1/nodes lists them)",
    "unknown_worker": "There is no such worker: the ids of workers are w- and a number (/v1/workers lists them)",
}
INTERNAL = "The server's log has the details"
_REWORDED = {
    "extra_forbidden": "is unknown",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} members",
    "literal_error": "must be {expected}",
}


def problem(
    code: str, detail: str = "", *, members: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer for a code. `members` are the facts; they never replace a standard member."""
    row, status = CODES[code], STATUSES[code]
    detail = detail or row.title
    standard = {
        "type": f"urn:killable:problem:{code}",
        "title": row.title,
        "status": status,
        "detail": _as_sentence(detail),
        "code": code,
        "retryable": row.retryable,
    }
    body: dict[str, Any] = standard | dict(members or {}) | standard
    all_headers = dict(headers or {}) | rate_headers.of_refusal(members or {})
    if status in RETRY_AFTER_S:
        wait_s = body.get("retry_after_s", RETRY_AFTER_S[status])
        all_headers["Retry-After"] = str(math.ceil(wait_s))
    return Response(dump_json(body), status, all_headers, media_type=PROBLEM_TYPE)


def _as_sentence(detail: str) -> str:
    """Return the text with a capital first letter, unless it begins with a name (`run_s of …`)."""
    return detail[0].upper() + detail[1:] if detail.partition(" ")[0].rstrip(":;,").isalpha() else detail


def install_problems(app: FastAPI) -> None:
    """Answer every exception of this app's routes with a problem document."""
    app.exception_handler(Refused)(refused)
    app.exception_handler(HTTPException)(_http_exception)
    app.exception_handler(RequestValidationError)(_request_invalid)
    app.exception_handler(Exception)(_unexpected)


async def refused(request: Request, error: Refused) -> Response:
    """Return the answer for a refusal."""
    members, message = dict(error.facts), error.message
    form = {"unknown_node": NODE_NAME, "unknown_file": FILE}.get(error.code, ID)
    named = members.get("job_id") or members.get("worker_id") or members.get("node") or members.get("file_id")
    if error.code in _UNKNOWN and "names" not in members and not (named and form.fullmatch(named)):
        members, message = {}, _UNKNOWN[error.code]
    record = members.pop("record", None)
    if isinstance(record, JobRecord):
        members["job"] = record_json(record, request.app.state.parts.settings.result_inline_bytes_max)
    return problem(error.code, message, members=members, headers=_correlation(request))


def _correlation(request: Request) -> dict[str, str]:
    """Return the header with the correlation id of a refused request, if it sent one or one was generated for it."""
    said = request.headers.get("X-Correlation-Id") or request.headers.get("X-Request-Id") or ""
    found = getattr(request.state, "correlation_id", said)
    return {"X-Correlation-Id": found} if re.fullmatch(CORRELATION_ID, found) else {}


async def _http_exception(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        methods = ", ".join(allowed(request.scope["path"]))
        verb = "are" if "," in methods else "is"
        return problem("method_not_allowed", f"Only {methods} {verb} allowed here", headers={"Allow": methods})
    return refusal(error)


def refusal(error: HTTPException) -> Response:
    """Return the answer for an exception of the checks of a request's body, or of Starlette's own."""
    code = _CODE_OF_STATUS.get(error.status_code, "malformed" if error.status_code < 500 else "internal")
    if code in ("too_large", "slow_request", "busy"):  # raised by BodyCheck, with its own message
        return problem(code, error.detail, headers=error.headers)
    return problem(code, _DETAILS.get(code, ""))


async def _request_invalid(request: Request, error: RequestValidationError) -> Response:
    faults = []
    for item in islice(error.errors(), UNKNOWN_MEMBERS_MAX):
        where, *path = item["loc"]
        if item["type"] == "json_invalid":
            return problem("malformed", f"The body is not JSON: {item['ctx']['error']} (character {path[0]})")
        if where == "body" and not path and item["type"] == "missing":
            return problem("malformed", "The body is empty")
        if where == "body" and path and path[0] in BODY_FORMS:
            del path[0]
        if path and path[-1] == "[key]":
            del path[-1]  # the fault is in the member's own name
        faults.append(fault(str(where), path, _reword(item)))
    return await refused(request, invalid(faults[:FAULTS_MAX], more=len(faults) > FAULTS_MAX))


def _reword(item: dict[str, Any]) -> str:
    """Return pydantic's message in the wording of all other faults: "must be …"."""
    facts: dict[str, Any] = item.get("ctx", {})
    if facts.get("pattern") in PATTERNS:
        return PATTERNS[facts["pattern"]]
    words = _REWORDED.get(item["type"], "")
    if words:
        return words.format(**{n: f"{fact:g}" if isinstance(fact, float) else fact for n, fact in facts.items()})
    message = cut(item["msg"], 300)
    return message.replace("Input should be", "must be", 1).replace("String should have", "must have", 1)


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, and the server logs it with its traceback.
    return problem("internal", INTERNAL)
