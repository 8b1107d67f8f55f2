"""Routes for files: those that clients upload, and those that jobs save.

Runs in: api.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from killable.api.http import schemas
from killable.api.http.audited_requests import note_file
from killable.api.http.auth import tenant_of, tenant_seen_by
from killable.api.http.dependencies import engine_of, parts_of
from killable.api.http.file_answers import file_answer
from killable.api.http.file_uploads import receive
from killable.api.http.responses import NO_BODY, Json, answer, documented
from killable.supervisor.files.file_store import FileStore
from killable.workers.errors import Refused

BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {
    "schema": {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    }
}
UPLOAD_BODY = {"requestBody": {"content": {"application/octet-stream": BINARY, "multipart/form-data": FORM}}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The content",
        "content": {"application/octet-stream": BINARY},
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in (
                ("ETag", "Changes with the content"),
                ("Accept-Ranges", "`bytes`"),
                ("Content-Disposition", "The name to save it under"),
            )
        },
    },
    206: {"description": "The part that `Range` names", "content": {"application/octet-stream": BINARY}},
    304: {"description": "It is what `If-None-Match` names"},
    416: {"description": "`Range` names no part of it"},
}

router = APIRouter(tags=["files"], default_response_class=Json)


@router.post(
    "/v1/files",
    status_code=201,
    responses=documented(
        {201: answer("The file is whole", schemas.UploadedFile, "Location")},
        *("malformed", "slow_request", "too_large", "files_full", "disk_full", "files_off", "invalid", "busy"),
    ),
    openapi_extra=UPLOAD_BODY,
)
async def upload_file(request: Request, query: Annotated[schemas.UploadQuery, Query()]) -> Response:
    """Upload a file for jobs: the body as it is, or as multipart/form-data. Its id is what a job's input has."""
    parts = parts_of(request)
    try:
        record = await receive(request, _store(request), tenant_of(request), query.name, parts.settings.body_timeout_s)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    note_file(request, record.file_id)
    return Json(record._asdict(), 201, {"Location": f"/v1/files/{record.file_id}"})


@router.get("/v1/files", responses=documented({200: answer("One page", schemas.FileList)}, "files_off", "invalid"))
async def list_files(request: Request, query: Annotated[schemas.FilesQuery, Query()]) -> Response:
    """List the uploaded files that are there, latest first."""
    before = None if query.cursor is None else int(query.cursor)
    page, following = _store(request).page(tenant_seen_by(request), limit=query.limit, before=before)
    cursor = None if following is None else str(following)
    return Json({"files": [record._asdict() for record in page], "next_cursor": cursor})


@router.get(
    "/v1/files/{file_id}",
    responses=documented({200: answer("The file", schemas.UploadedFile)}, "unknown_file", "files_off"),
)
async def get_file(request: Request, file_id: str) -> Response:
    """Return what is known of an uploaded file."""
    return Json(_store(request).get(file_id, tenant_seen_by(request))._asdict())


@router.get(
    "/v1/files/{file_id}/content",
    response_class=Response,
    responses=documented(dict(CONTENT), "unknown_file", "files_off", "not_found"),
)
async def get_file_content(request: Request, file_id: str) -> Response:
    """Return the content of an uploaded file, or a range of it."""
    store = _store(request)
    record = store.get(file_id, tenant_seen_by(request))
    path = store.path_of(file_id)
    return await _content(request, store, path, record.name, record.content_type, {"file_id": file_id})


@router.delete(
    "/v1/files/{file_id}",
    responses=documented(
        {200: answer("It is removed", schemas.UploadedFile)}, "unknown_file", "file_in_use", "files_off", "invalid"
    ),
    dependencies=[NO_BODY],
)
async def delete_file(request: Request, file_id: str) -> Response:
    """Remove an uploaded file that no waiting or running job uses."""
    note_file(request, file_id)
    return Json(_store(request).delete(file_id, tenant_seen_by(request))._asdict())


@router.get(
    "/v1/jobs/{job_id}/files",
    responses=documented({200: answer("The files", schemas.JobFileList)}, "unknown_job"),
)
async def list_job_files(request: Request, job_id: str) -> Response:
    """List the files that a job has saved so far."""
    record = await engine_of(request).get(job_id)
    return Json({"files": record.files})


@router.get(
    "/v1/jobs/{job_id}/files/{name}",
    response_class=Response,
    responses=documented(dict(CONTENT), "unknown_job", "unknown_file", "files_off", "not_found"),
)
async def get_job_file(request: Request, job_id: str, name: str) -> Response:
    """Return the content of a file that a job has saved, or a range of it."""
    record = await engine_of(request).get(job_id)
    found = next((each for each in record.files if each["name"] == name), None)
    if found is None:
        names = [each["name"] for each in record.files]
        raise Refused("the job has saved no file of this name", code="unknown_file", names=names[:NAMES_MAX])
    store = _store(request)
    path = f"{store.saved_folder(job_id, record.attempts)}/{name}"
    return await _content(request, store, path, name, found["content_type"], {"job_id": job_id})


NAMES_MAX = 20
"""Of a job's files, in a refusal."""


async def _content(
    request: Request, store: FileStore, path: str, name: str, content_type: str, of: Mapping[str, str]
) -> Response:
    return await file_answer(
        path,
        name=name,
        content_type=content_type,
        send_timeout_s=parts_of(request).settings.send_timeout_s,
        note_sent=store.note_sent,
        of=of,
    )


def _store(request: Request) -> FileStore:
    """Raise Refused: files_off."""
    store = parts_of(request).files
    if store is None:
        raise Refused("this server keeps no files: it is the head of a cluster, or server.files_bytes_max is 0",
                      code="files_off")  # fmt: skip
    return store
