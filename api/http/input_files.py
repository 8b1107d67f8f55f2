"""The uploaded files that an input names, which its job gets.

Runs in: api.
"""

from __future__ import annotations

from starlette.requests import Request

from killable.api.http.auth import tenant_seen_by
from killable.api.http.dependencies import parts_of
from killable.supervisor.models import JobType


def input_files(request: Request, job_type: JobType, payload: bytes) -> tuple[str, ...]:
    """Return the files that an input has, of those that the request's key sees. Raise Refused: unknown_file."""
    parts, tenant = parts_of(request), tenant_seen_by(request)
    file_ids = parts.input_check.file_ids(job_type, payload)
    for file_id in file_ids:
        if parts.files is not None:
            parts.files.check_visible(file_id, tenant)
    return file_ids
