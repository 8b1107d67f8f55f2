"""The routes of OpenAI's API, and of Anthropic's Messages, over the job types that are declared for them.

Runs in: api. Their errors are OpenAI's (`errors`): what is raised here is told as everywhere else, and turned there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http import schemas
from killable.api.http.audited_requests import note_jobs
from killable.api.http.auth import is_operator, key_name_of, tenant_of
from killable.api.http.dependencies import Dependencies, parts_of
from killable.api.http.input_files import input_files
from killable.api.http.request_faults import fault, invalid
from killable.api.http.responses import NO_BODY, Json, correlation_id_of, trace_of
from killable.api.http.writes import Piece
from killable.api.openai import responses_api
from killable.api.openai.answer_while_connected import Answer, Form, Jobs, StreamedForm
from killable.api.openai.chat_choices import Chunks
from killable.api.openai.documentation import body_of, described
from killable.api.openai.error_answers import OF_INPUT
from killable.api.openai.large_answers import whole_answer
from killable.api.openai.messages_answer import Message
from killable.api.openai.model_list import accepting, models_json
from killable.api.openai.request_body import options_of, read_request
from killable.api.openai.request_inputs import Asked
from killable.api.openai.vectors_and_tokens import Embeddings, TextOfTokens, TokensOfText
from killable.supervisor.engine import Engine
from killable.supervisor.models import JobType, Submission
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused

router = APIRouter(tags=["openai"], default_response_class=Json)
Headers = Annotated[schemas.SubmissionHeaders, Header()]


class Submitted:
    """One request whose jobs are submitted."""

    def __init__(self, asked: Asked, records: list[JobRecord], headers: dict[str, str]) -> None:
        self.asked = asked
        self.records = records
        self.headers = headers

    @property
    def created(self) -> int:
        return responses_api.seconds(self.records[0].created_at)

    def id(self, prefix: str) -> str:
        """Return the id of the answer, which has that of its first job."""
        return prefix + self.records[0].job_id.removeprefix("job-")


@router.get("/v1/models", **described("The models", schemas.ModelList))
async def list_models(request: Request) -> Response:
    """List the models: the job types that answer OpenAI's requests."""
    engine = parts_of(request).engine
    return Json({"object": "list", "data": models_json(await _types(engine), engine.started_at)})


@router.get("/v1/models/{model:path}", **described("The model", schemas.OpenAIModel, "unknown_job_type"))
async def get_model(request: Request, model: str) -> Response:
    """Return one model."""
    engine = parts_of(request).engine
    for each in models_json(await _types(engine), engine.started_at):
        if each["id"] == model:
            return Json(each)
    raise Refused("There is no such model; /v1/models lists all of them", code="unknown_job_type")


@router.post("/v1/chat/completions", **body_of("chat"))
async def chat(request: Request, headers: Headers) -> Response:
    """Answer a conversation; with `stream` token by token. Closing the connection ends the job."""
    return await _completions(request, headers, "chat", "chatcmpl-")


@router.post("/v1/completions", **body_of("completions"))
async def completions(request: Request, headers: Headers) -> Response:
    """Continue a text, or each of several; with `stream` token by token. Closing the connection ends the job."""
    return await _completions(request, headers, "completions", "cmpl-")


async def _completions(request: Request, headers: schemas.SubmissionHeaders, kind: str, prefix: str) -> Response:
    submitted = await _submit(request, headers, kind)
    asked = submitted.asked
    form = Chunks(
        kind,
        submitted.id(prefix),
        submitted.created,
        asked.model,
        len(submitted.records),
        n=asked.n,
        usage=asked.include_usage,
    )
    return _answer(request, submitted, form, streamed=form if asked.stream else None)


@router.post("/v1/embeddings", **body_of("embeddings"))
async def embeddings(request: Request, headers: Headers) -> Response:
    """Turn texts into vectors."""
    submitted = await _submit(request, headers, "embeddings")
    return _answer(request, submitted, Embeddings(submitted.asked.model))


@router.post("/tokenize", **body_of("tokenize"))
async def tokenize(request: Request, headers: Headers) -> Response:
    """Split a text into tokens, as llama.cpp's server (`content`) and vLLM (`prompt`) do."""
    return _answer(request, await _submit(request, headers, "tokenize"), TokensOfText())


@router.post("/detokenize", **body_of("detokenize"))
async def detokenize(request: Request, headers: Headers) -> Response:
    """Join tokens to a text."""
    return _answer(request, await _submit(request, headers, "detokenize"), TextOfTokens())


@router.post("/v1/messages", **body_of("messages"))
async def messages(request: Request, headers: Headers) -> Response:
    """Answer a conversation as Anthropic's Messages API does. Closing the connection ends the job."""
    submitted = await _submit(request, headers, "messages")
    form = Message(submitted.id("msg_"), submitted.asked.model)
    return _answer(request, submitted, form, streamed=form if submitted.asked.stream else None)


@router.post("/v1/responses", **body_of("responses"))
async def create_response(request: Request, headers: Headers) -> Response:
    """Answer a conversation as a response. With `background` it goes on when its client leaves."""
    submitted = await _submit(request, headers, "responses")
    asked, record = submitted.asked, submitted.records[0]
    form = responses_api.OpenAIResponse(record, asked.model, asked.told)
    if asked.background and not asked.stream:
        form.take_record(0, record)
        return await whole_answer(record.job_id, form.whole(), submitted.headers)
    begun = form.begin() if asked.background else ()
    streamed = form if asked.stream else None
    return _answer(request, submitted, form, streamed=streamed, watches=asked.background, begun=begun)


@router.get(
    "/v1/responses/{response_id}", **described("The response, or its events", schemas.OpenAIObject, "unknown_job")
)
async def get_response(
    request: Request, response_id: str, query: Annotated[schemas.ResponseQuery, Query()]
) -> Response:
    """Return a response as it stands; with `stream` its events, from the one after `starting_after`."""
    parts = parts_of(request)
    record, model = await _response_job(parts, response_id)
    if query.include_obfuscation:
        raise invalid([fault("query", ["include_obfuscation"], "is not supported: events are never padded")])
    if query.stream:
        form = responses_api.OpenAIResponse(record, model, after=query.starting_after)
        jobs = Jobs([record.job_id], [0], tenant_of(request), watches=True)
        await _open_stream(parts, jobs.tenant, operator=is_operator(request.scope))
        return Answer(parts.engine, parts.streams, jobs, form, streamed=form, headers={}, begun=form.begin())
    if query.starting_after >= 0:
        raise invalid([fault("query", ["starting_after"], "is for streams only")])
    return await _as_it_stands(parts, record, model)


@router.post(
    "/v1/responses/{response_id}/cancel",
    dependencies=[NO_BODY],
    **described("The response, which is cancelled", schemas.OpenAIObject, "unknown_job"),
)
async def cancel_response(request: Request, response_id: str) -> Response:
    """Cancel a response, and answer when its whole process tree is gone. One that has ended is returned as it is."""
    parts = parts_of(request)
    record, model = await _response_job(parts, response_id)
    try:
        record = await parts.engine.cancel(record.job_id, reason="cancelled as a response", key=key_name_of(request))
    except Refused as error:
        if error.code != "already_ended":
            raise
        record = await parts.engine.get(record.job_id)
    return await _as_it_stands(parts, record, model)


async def _response_job(parts: Dependencies, response_id: str) -> tuple[JobRecord, str]:
    """Return the record of a response's job, and its model. Raise Refused: unknown_job."""
    record = await parts.engine.get(responses_api.job_id_of(response_id))
    for job_type in await _types(parts.engine):
        if job_type.name == record.type and job_type.openai == "chat":
            return record, job_type.openai_model
    raise Refused("There is no such response", code="unknown_job")


async def _as_it_stands(parts: Dependencies, record: JobRecord, model: str) -> Response:
    form = responses_api.OpenAIResponse(record, model)
    async for batch in parts.engine.events(record.job_id, follow=False):
        form.take(0, batch)
    form.take_record(0, record)
    return await whole_answer(record.job_id, form.whole())


async def _types(engine: Engine) -> list[JobType]:
    return [job_type for job_type in await engine.job_types() if job_type.codec == "json"]


async def _submit(request: Request, headers: schemas.SubmissionHeaders, kind: str) -> Submitted:
    """Read a request and submit its jobs: all of them, or none. Raise Refused."""
    parts, tenant = parts_of(request), tenant_of(request)
    body = await request.body()
    job_types = await _types(parts.engine)
    asked, inputs = await read_request(kind, body, accepting(job_types, kind), parts.checks, tenant)
    options = options_of(asked)
    job_type = next(each for each in job_types if each.name == asked.job_type)
    operator, key = is_operator(request.scope), headers.idempotency_key or ""
    encoded = [(each, input_files(request, job_type, each)) for each in await _encoded(parts, job_type, inputs, tenant)]
    submission = Submission(
        type=job_type.name,
        input=b"",
        limits=options.limits_given(),
        priority=options.priority,
        tags=options.tags,
        tenant=tenant,
        operator=operator,
        within_s=headers.x_request_timeout,
        stop_when_client_leaves=not asked.background,
        idempotency_key=key,
        body_digest=hashlib.sha256(body).hexdigest() if key else "",
        correlation_id=correlation_id_of(request),
        **trace_of(request),
    )
    if asked.stream:
        await _open_stream(parts, tenant, operator=operator)
    try:
        records = await _submit_all(parts.engine, submission, encoded)
        if asked.stream:  # the answer to a key is that of its first request, and other attempts may have followed
            records = [await parts.engine.get(each.job_id, at_once=True) if each.replayed else each for each in records]
    except BaseException:
        if asked.stream:
            await parts.engine.reader_left(None, tenant)
        raise
    note_jobs(request, [record.job_id for record in records])
    told = {"X-Correlation-Id": records[0].correlation_id, "X-Request-Id": records[0].correlation_id}
    return Submitted(asked, records, told)


async def _encoded(parts: Dependencies, job_type: JobType, inputs: Sequence[Any], tenant: str) -> list[bytes]:
    """Return the inputs as JSON. Raise Refused, with faults of the input: they name the job's parameters."""
    try:
        return [await parts.input_check.encode(job_type, each, (), tenant) for each in inputs]
    except Refused as error:
        for each in error.facts.get("faults", ()):
            each["in"] = OF_INPUT
        raise


async def _open_stream(parts: Dependencies, tenant: str, *, operator: bool) -> None:
    """Count a stream, before anything is started for it; its answer gives it back. Raise Refused."""
    parts.streams.check(operator=operator)
    await parts.engine.reader_came(None, tenant, operator=operator)


async def _submit_all(
    engine: Engine, submission: Submission, inputs: Sequence[tuple[bytes, tuple[str, ...]]]
) -> list[JobRecord]:
    """Submit a job for each input with its files, or none. Raise Refused."""
    records: list[JobRecord] = []
    key = submission.idempotency_key
    try:
        for number, (input, files) in enumerate(inputs):
            number_key = f"{key}#{number}" if key and number else key
            each = submission._replace(input=input, files=files, idempotency_key=number_key)
            records.append(await engine.submit(each, counted=not number))
    except Refused:
        for record in records:
            if not record.replayed:  # those of an earlier request with this key are its own
                await _withdraw(engine, record)
        raise
    return records


async def _withdraw(engine: Engine, record: JobRecord) -> None:
    try:
        await engine.cancel(
            record.job_id, by="client_gone", reason="another job of its request was refused", wait_s=0.0
        )
    except Refused:
        pass  # it has ended


def _answer(
    request: Request, submitted: Submitted, form: Form, *, streamed: StreamedForm | None = None, watches: bool = False,
    begun: Sequence[Piece] = (),
) -> Response:  # fmt: skip
    parts = parts_of(request)
    ids = [record.job_id for record in submitted.records]
    is_response = isinstance(form, responses_api.OpenAIResponse)  # whose events have numbers, from the first attempt on
    first_ids = [0 if is_response else record.first_id for record in submitted.records]
    jobs = Jobs(ids, first_ids, tenant_of(request), watches)
    return Answer(parts.engine, parts.streams, jobs, form, streamed=streamed, headers=submitted.headers, begun=begun)
