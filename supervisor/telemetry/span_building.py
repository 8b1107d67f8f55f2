"""Makes OpenTelemetry's spans of what was noted of jobs and requests.

Runs in: supervisor, in the thread that sends them (`otlp_sender`). Imported only where traces are sent.

    job TYPE
    ├── queued
    └── attempt                one of each, with the members of its certificate
        ├── starting           until its function is entered
        ├── first token        from then until the first token
        ├── running            until it is to end, or ends
        ├── (spans of the job's own)
        ├── stop asked         until it acknowledges, or is killed, or exits
        ├── acknowledged       its grace: until it exits, or is killed
        ├── killed             from SIGKILL to its exit
        └── tree empty         from its exit until no process of it is left
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from killable.supervisor.telemetry.job_trace import OWN_SPANS_MAX, AttemptFacts, JobFacts
from killable.supervisor.telemetry.request_trace import RequestFacts
from killable.workers.protocol.trace_context import TraceContext

MESSAGE_CHARS_MAX = 1000
NAME_CHARS_MAX = 200
EVENTS_MAX = 16
"""Of one of the job's own spans."""
EXCEPTION_TEXTS = frozenset({"exception.message", "exception.stacktrace"})
"""Attributes of events that are text of jobs."""
NOT_IN_SPANS = frozenset({"stack", "requested"})
"""Members of a certificate that no attribute has: one is long, the other always 0."""
LOST_WITH_IT = "killed"
"""What a span's status says in whose middle its job was killed."""

_UNSET = Status(StatusCode.UNSET)
_OK = Status(StatusCode.OK)


class SpanBuilding:
    """Makes spans of one server."""

    def __init__(self, resource: Resource, version: str, *, redact: bool) -> None:
        """`redact`: text of jobs is left out."""
        self._resource = resource
        self._scope = InstrumentationScope("killable", version)
        self._redact = redact

    def spans_of(self, facts: JobFacts | RequestFacts) -> Iterator[ReadableSpan]:
        """Yield the spans of a job or a request, the outermost first."""
        if isinstance(facts, RequestFacts):
            yield self._request(facts)
        else:
            yield from self._job(facts)

    def _request(self, facts: RequestFacts) -> ReadableSpan:
        # A fault of the client is no error of a server's span.
        status = Status(StatusCode.ERROR) if facts.status >= 500 or not facts.status else _UNSET
        attributes = {"http.response.status_code": facts.status or None, **facts.attributes}
        return self._span(
            facts.name, facts.context, facts.parent_id, facts.begin_s, facts.end_s, attributes, status, SpanKind.SERVER
        )

    def _job(self, facts: JobFacts) -> Iterator[ReadableSpan]:
        context, last = facts.context, facts.attempts[-1]
        wall_s = facts.wall_s
        ending = self._ending(last) | {"killable.job.state": last.state}
        name = f"job {facts.attributes['killable.job.type']}"
        yield self._span(
            name, context, facts.parent_id, wall_s + facts.created, wall_s + last.ended,
            {**facts.attributes, **ending}, self._status(last),
        )  # fmt: skip
        for attempt in facts.attempts:
            until = attempt.ended if attempt.assigned is None else attempt.assigned
            of_it = {"killable.attempt": attempt.number}
            yield self._phase("queued", context, f"{attempt.span_id}/queued", wall_s, attempt.queued, until, of_it)
            if attempt.assigned is not None:
                yield from self._attempt(attempt, attempt.assigned, context, wall_s)

    def _attempt(
        self, attempt: AttemptFacts, assigned: float, job: TraceContext, wall_s: float
    ) -> Iterator[ReadableSpan]:
        context = job._replace(span_id=attempt.span_id)
        certificate = dict(attempt.certificate)  # one of its members may come now, from the other thread
        attributes = {
            "killable.attempt": attempt.number,
            "killable.worker.id": attempt.worker_id,
            "process.pid": attempt.pid,
            "killable.node": attempt.node,
            "killable.tokens": attempt.tokens,
            **self._ending(attempt),
        }
        told = certificate.keys() - NOT_IN_SPANS
        attributes |= {f"killable.certificate.{name}": certificate[name] for name in told}
        base = _base(attempt, certificate)
        own, left_out = _own_spans(attempt)
        if left_out:
            attributes["killable.spans_left_out"] = left_out
        ended = max(assigned, attempt.ended)
        yield self._span(
            "attempt", context, job.span_id, wall_s + assigned, wall_s + ended, attributes, self._status(attempt)
        )
        for name, begin, end in _phases(attempt, assigned, certificate, base):
            yield self._phase(name, context, f"{attempt.span_id}/{name}", wall_s, begin, end, {})
        death = _moment(certificate, base, "exited") or _moment(certificate, base, "kill_sent") or ended
        killed = "kill_sent" in certificate or certificate.get("exit_signal") is not None
        why = LOST_WITH_IT if killed else attempt.code or "never ended"
        for members in own:
            yield self._own(members, context, wall_s + assigned, wall_s + death, why)

    def _own(
        self, members: Mapping[str, Any], attempt: TraceContext, from_s: float, until_s: float, why: str
    ) -> ReadableSpan:
        """Return a span of the job's own; it lies within the attempt, whatever the job has said."""
        begin_s = min(max(members["begin_ns"] / 1e9, from_s), until_s)
        attributes, status = dict(members["attributes"]), _UNSET
        end_ns = members.get("end_ns")
        if end_ns is None:
            attributes["killable.truncated"] = True
            status = Status(StatusCode.ERROR, why)
        elif members.get("error") is not None:
            attributes["error.type"] = members["error"]
            told = "" if self._redact or not members.get("message") else f": {members['message']}"
            status = Status(StatusCode.ERROR, _utf8(f"{members['error']}{told}"))
        elif members.get("ok"):
            status = _OK
        end_s = until_s if end_ns is None else min(max(end_ns / 1e9, begin_s), max(until_s, begin_s))
        context = attempt._replace(span_id=members["span"])
        kind, events = members.get("kind", SpanKind.INTERNAL), self._events(members.get("events", ()), begin_s, end_s)
        return self._span(
            members["name"], context, members["parent"], begin_s, end_s, attributes, status, kind, list(events)
        )

    def _events(self, events: Sequence[Mapping[str, Any]], begin_s: float, end_s: float) -> Iterator[Event]:
        for each in events:
            hidden = EXCEPTION_TEXTS if self._redact else frozenset()
            attributes = {name: value for name, value in each["attributes"].items() if name not in hidden}
            at_s = min(max(each["at_ns"] / 1e9, begin_s), end_s)
            yield Event(each["name"], attributes, round(at_s * 1e9))

    def _ending(self, attempt: AttemptFacts) -> dict[str, Any]:
        is_error = attempt.state in ("failed", "timed_out")
        return {"killable.code": attempt.code, "error.type": attempt.code if is_error else None}

    def _status(self, attempt: AttemptFacts) -> Status:
        if attempt.state == "completed":
            return _OK
        if attempt.state == "cancelled":  # as its caller wanted it
            return _UNSET
        told = "" if self._redact or not attempt.message else f": {attempt.message[:MESSAGE_CHARS_MAX]}"
        return Status(StatusCode.ERROR, _utf8(f"{attempt.code}{told}"))

    def _phase(
        self, name: str, within: TraceContext, key: str, wall_s: float, begin: float, end: float,
        attributes: Mapping[str, Any],
    ) -> ReadableSpan:  # fmt: skip
        context = within._replace(span_id=span_id_of(key))
        return self._span(name, context, within.span_id, wall_s + begin, wall_s + max(begin, end), attributes, _UNSET)

    def _span(
        self, name: str, context: TraceContext, parent_id: str, begin_s: float, end_s: float,
        attributes: Mapping[str, Any], status: Status, kind: SpanKind = SpanKind.INTERNAL, events: Sequence[Event] = (),
    ) -> ReadableSpan:  # fmt: skip
        return ReadableSpan(
            events=events,
            name=_utf8(name),
            context=_as_otel(context),
            parent=_as_otel(context._replace(span_id=parent_id)) if parent_id else None,
            resource=self._resource,
            attributes={
                _utf8(key): _utf8(value) if isinstance(value, str) else value
                for key, value in attributes.items()
                if value is not None and value != ""
            },
            kind=kind,
            status=status,
            start_time=round(begin_s * 1e9),
            end_time=round(end_s * 1e9),
            instrumentation_scope=self._scope,
        )


def span_id_of(key: str) -> str:
    """Return the id of a phase's span, by the attempt and the phase."""
    from hashlib import blake2b

    return blake2b(key.encode(), digest_size=8).hexdigest()


def _as_otel(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED), trace_state=TraceState.from_header([context.state]),
    )  # fmt: skip


def _base(attempt: AttemptFacts, certificate: Mapping[str, Any]) -> float:
    """Return the moment from which the phases of a certificate count, in monotonic seconds."""
    if "relayed" in certificate:  # on a node: the head asked then
        return attempt.ended - float(certificate["relayed"]) / 1000
    if "tree_empty" in certificate:
        return attempt.ended - float(certificate["tree_empty"]) / 1000
    if attempt.asked is not None:
        sent = float(certificate.get("term_sent", certificate.get("kill_sent", 0.0)))
        return attempt.asked - sent / 1000
    return attempt.ended


def _moment(certificate: Mapping[str, Any], base: float, phase: str) -> float | None:
    return base + float(certificate[phase]) / 1000 if phase in certificate else None


def _phases(
    attempt: AttemptFacts, assigned: float, certificate: Mapping[str, Any], base: float
) -> Iterator[tuple[str, float, float]]:
    """Yield the phases that an attempt had, with their begin and end."""
    is_asked = "requested" in certificate
    acknowledged, kill, exited, empty = (
        _moment(certificate, base, phase) for phase in ("acknowledged", "kill_sent", "exited", "tree_empty")
    )
    over = base if is_asked else next((each for each in (exited, empty) if each is not None), attempt.ended)
    started = attempt.started
    yield "starting", assigned, over if started is None else started
    if started is not None:
        if attempt.first_token is not None:
            yield "first token", started, attempt.first_token
        yield "running", started, max(started, over)
    last = attempt.ended
    if is_asked:
        yield "stop asked", base, _first(acknowledged, kill, exited, last)
    if acknowledged is not None:
        yield "acknowledged", acknowledged, _first(kill, exited, last)
    if kill is not None:
        yield "killed", kill, _first(exited, last)
    if exited is not None and empty is not None:
        yield "tree empty", exited, empty


def _first(*moments: float | None) -> float:
    return next(each for each in moments if each is not None)


def _own_spans(attempt: AttemptFacts) -> tuple[list[dict[str, Any]], int]:
    """Return the spans that a job has told of, and how many were left out. What it tells is not trusted."""
    found: dict[str, dict[str, Any]] = {}
    left_out = attempt.left_out
    for payload in attempt.reported:
        try:
            left_out += _take(json.loads(payload), found)
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError):
            left_out += 1
    return list(found.values()), left_out


def _take(members: dict[str, Any], found: dict[str, dict[str, Any]]) -> int:
    """Add what one message says; return how many spans it is about that there is no room for.

    Raise ValueError, KeyError, TypeError, AttributeError for what `authoring.spans` does not write.
    """
    if "left_out" in members:
        return 1
    attributes, span_id = _plain_attributes(members), _id(members["span"])
    if "begin_ns" in members:
        if len(found) >= OWN_SPANS_MAX or span_id in found:
            return 1
        begun = {"span": span_id, "parent": _id(members["parent"]), "name": str(members["name"])[:NAME_CHARS_MAX]}
        kind = SpanKind[members.get("kind", "INTERNAL")]
        found[span_id] = begun | {"kind": kind, "begin_ns": _ns(members["begin_ns"]), "attributes": attributes}
        return 0
    ended: dict[str, Any] = {"end_ns": _ns(members["end_ns"]), "attributes": attributes}
    for name in ("error", "message"):
        if name in members:
            ended[name] = str(members[name])[:MESSAGE_CHARS_MAX]
    if "name" in members:
        ended["name"] = str(members["name"])[:NAME_CHARS_MAX]
    ended["ok"] = members.get("ok") is True
    ended["events"] = [
        {
            "name": _utf8(str(each["name"])[:NAME_CHARS_MAX]),
            "at_ns": _ns(each["at_ns"]),
            "attributes": _plain_attributes(each),
        }
        for each in members.get("events", ())[:EVENTS_MAX]
    ]
    if span_id in found:  # else its begin was left out
        found[span_id] |= ended
    return 0


def _id(text: str) -> str:
    if len(text) != 16 or not int(text, 16):
        raise ValueError(text)
    return text


def _ns(value: Any) -> int:
    """Return a time in nanoseconds since 1970. Raise ValueError, TypeError, OverflowError for what is none."""
    found = int(value)
    if not 0 <= found < 1 << 63:
        raise ValueError(value)
    return found


def _utf8(text: str) -> str:
    """Return the text without lone surrogates. One of them would keep the whole batch from being sent, with the traces
    of other jobs: OTLP is UTF-8.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _plain_attributes(members: Mapping[str, Any]) -> dict[str, Any]:
    return {_utf8(str(name)): _plain(value) for name, value in members["attributes"].items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        kinds = {type(each) for each in value}
        if len(kinds) <= 1 and kinds <= {bool, int, float}:
            return list(value)
        return [_utf8(str(each)) for each in value]
    return value if isinstance(value, (bool, int, float)) else _utf8(str(value))
