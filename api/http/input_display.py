"""A job's record for who reads it: with the beginning of its input where the operator allows that.

Runs in: api.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from killable.api.http.auth import caller_of
from killable.api.http.dependencies import Dependencies, parts_of
from killable.api.http.record_json import record_json
from killable.api.http.route_roles import includes
from killable.supervisor.records import JobRecord


def shown_record(request: Request, record: JobRecord) -> dict[str, Any]:
    """Return the members of a record as this request may see them."""
    parts = parts_of(request)
    is_allowed = may_see_inputs(request, parts)
    return record_json(record, parts.settings.result_inline_bytes_max, shows_input=is_allowed)


def may_see_inputs(request: Request, parts: Dependencies) -> bool:
    """Return whether its key is of a role that sees inputs; without keys everybody does. A ticket has no role."""
    if parts.settings.hides_inputs:
        return False
    caller = caller_of(request.scope)
    if caller is None:
        return parts.keys is None
    return includes(caller.role, parts.settings.inputs_shown_to)
