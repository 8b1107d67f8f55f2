"""The story of one job: its request, the rule that ended it, each step with its time, the end of its output.

Runs in: any machine. Pure: from the record and the last events to paragraphs; it asks nobody and prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from killable.api.explanation import spelling
from killable.api.explanation.ending_rules import rule_of
from killable.api.explanation.remedies import Remedy, remedy_for
from killable.api.explanation.state_words import PHASES, ended_by, is_lost, progress_text
from killable.workers.authoring.limits_and_caps import flat

Members = Mapping[str, Any]

LAST_TOKENS_CHARS = 300
LAST_LINES = 5
"""Enough to see how far its output came; `killable stream` and `logs` print all of it."""
LAST_EVENTS = 50
"""Last events to ask for, for the end of the output."""
INPUT_LINES = 10
INPUT_CHARS = 80
"""What of an input the story shows, in characters: JSON of a client has no lines."""
BETWEEN_ATTEMPTS = frozenset({"retrying", "restored"})
"""Events of a job that is attempted more than once."""
TOLD_EVENTS = BETWEEN_ATTEMPTS | {"token", "log"}
"""Events of which a story tells."""
ACTIVE = ("queued", "running", "stopping")
LINGERED = "The job had ended, but its process was still there a second later, so it was killed."
_USUAL = frozenset({"queue_s", "start_s", "run_s", "ack_s", "memory_bytes"})
"""Limits that a job has by default; the story mentions one that is not set."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences, and lines that are not wrapped: steps, a stack, output."""

    title: str
    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """A job's story; the last paragraph is what to change."""

    headline: str
    paragraphs: tuple[Paragraph, ...]
    remedy: Remedy


def tell(record: Members, events: Sequence[Members] = (), *, now: datetime | None = None) -> Story:
    """Return the story. `events` are the last known ones: mappings with `event` and `data`."""
    asked = Paragraph("Asked", _asked(record))
    paragraphs = [asked, *_input(record), *_before(events), Paragraph("Ran", _ran(record, now))]
    if record["state"] in ACTIVE:
        remedy = Remedy(None, "It has not ended yet.")
        headline = f"{record['job_id']} ({record['type']}) is {record['state']}"
        return Story(headline, (*paragraphs, *_last_output(record, events), _change(remedy)), remedy)
    remedy = remedy_for(record)
    paragraphs.append(Paragraph("Rule", rule_of(record)))
    paragraphs += [_end(record), *_place(record), *_kept(record), *_last_output(record, events), _change(remedy)]
    return Story(_headline(record), tuple(paragraphs), remedy)


def members(record: Members, told: Story) -> dict[str, Any]:
    """Return a story as JSON: what `explain --json` prints and `GET /v1/jobs/ID/story` answers."""
    certificate = record.get("certificate") or {}
    asked = "requested" in certificate
    return {
        "job_id": record["job_id"],
        "state": record["state"],
        "headline": told.headline,
        "paragraphs": [
            {"title": each.title.lower(), "text": each.text, "lines": list(each.lines)} for each in told.paragraphs
        ],
        "steps": [{"ms": ms, "step": words} for ms, words in steps(certificate)] if asked else [],
        "change": {"setting": told.remedy.setting, "words": told.remedy.words},
    }


def _headline(record: Members) -> str:
    state, error = str(record["state"]), record.get("error") or {}
    name = f"{record['job_id']} ({record['type']})"
    if state == "completed":
        return f"{name} completed"
    if state == "cancelled":
        reason = f": {error['reason']}" if error.get("reason") else ""
        return f"{name} was {ended_by(record)}{reason}"
    verb = "timed out" if state == "timed_out" else "failed"
    return f"{name} {verb}, {error.get('code', state)}: {error.get('message') or 'no message'}"


def _input(record: Members) -> Iterator[Paragraph]:
    """Yield the beginning of the input, where the server shows it."""
    told = record.get("input")
    if told:
        text = _readable(str(told["text"]))
        shown = text[: INPUT_LINES * INPUT_CHARS]
        lines = tuple(shown[at : at + INPUT_CHARS] for at in range(0, len(shown), INPUT_CHARS))
        cut = ", of which this is the beginning" if told["is_cut"] or len(shown) < len(text) else ""
        yield Paragraph("Input", f"{spelling.size(told['bytes'])}{cut}:", lines)


def _readable(text: str) -> str:
    """Return JSON without the escapes of ASCII; what was cut is no JSON, and stays."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _asked(record: Members) -> str:
    tenant = record.get("tenant") or "default"
    by = "" if tenant == "default" else f" by {tenant}"
    sentences = [f"Accepted at {_moment(record['created_at'])}{by}, as a job of type {record['type']}."]
    extras = [f"{name} {record[name]}" for name in ("priority", "correlation_id") if record.get(name)]
    extras += [f"tag {key}={value}" for key, value in (record.get("tags") or {}).items()]
    extras += [f"nodes {key}={value}" for key, value in (record.get("nodes") or {}).items()]
    if extras:
        sentences.append(f"It has {', '.join(extras)}.")
    said = (_limit(*limit) for limit in flat(_told(record.get("limits") or {})))
    limits = [each for each in said if each]
    if limits:
        sentences.append(f"Limits in force: {', '.join(limits)}.")
    return " ".join(sentences)


def _told(limits: Members) -> Members:
    """Leave out the limits of retries for a job without retries."""
    again = ("attempts_max", "backoff_s") if limits.get("attempts_max", 1) == 1 else ()
    return {name: value for name, value in limits.items() if name not in again}


def _limit(name: str, whole_name: str, value: Any) -> str:
    """Return a limit as text; empty for one that is not set and not set by default."""
    if value is None:
        return f"no {whole_name}" if name in _USUAL or name != whole_name else ""
    if isinstance(value, Mapping):
        return ""
    if name.endswith("_s"):
        return f"{whole_name} {spelling.setting(float(value))}"
    return f"{name} {spelling.size(value) if name.endswith('_bytes') else value}"


def _before(events: Sequence[Members]) -> Iterator[Paragraph]:
    """Yield how the attempts before the last one ended."""
    lines = [_between_attempts(event) for event in events if event["event"] in BETWEEN_ATTEMPTS]
    if lines:
        yield Paragraph(
            "Before",
            "Earlier attempts, each followed by another because its error was retryable or its type asks for it:",
            tuple(lines),
        )


def _kept(record: Members) -> Iterator[Paragraph]:
    """Yield that the end may be another one after a death of the server."""
    if record.get("durable") is False:
        text = "Its end is not in the journal yet. If the server dies before it is, the next one calls the job lost."
        yield Paragraph("Kept", text)


def _between_attempts(event: Members) -> str:
    told = event["data"]
    error = told.get("error") or {}
    if event["event"] == "restored":
        ran = (
            f"attempt {told.get('attempt')}: {error.get('code')}; it is run again, as its type allows; "
            if error
            else ""
        )
        return f"{ran}the server was restarted; the output of the job up to then is lost"
    wait = spelling.duration(float(told.get("wait_s") or 0))
    return f"attempt {told.get('attempt')}: {error.get('code')}: {error.get('message')}; next attempt {wait} later"


def _ran(record: Members, now: datetime | None) -> str:
    started, ended = record.get("started_at"), record.get("ended_at")
    if started is None:
        return _never_entered(record, now)
    after, attempt = _between(record["created_at"], started), record.get("attempt") or 1
    waited = f"It waited {after} and started on {_worker(record)}"
    if attempt > 1:  # that time is not all waiting
        waited = f"Its attempt {attempt} started {after} after it was accepted, on {_worker(record)}"
    if ended is None:
        return f"{waited}; it has been running for {_between(started, now)}{_progress(record)}."
    return f"{waited}; it ended {_between(started, ended)} later{_progress(record)}.{_used(record)}"


def _worker(record: Members) -> str:
    return f"{record.get('worker_id') or 'a worker'} (pid {record.get('pid') or 'unknown'})"


def _never_entered(record: Members, now: datetime | None) -> str:
    """Describe a job whose function has not begun, though it may have been assigned to a worker, now or earlier."""
    ended = record.get("ended_at")
    if is_lost(record):
        return f"An earlier run of the server had assigned it to {_worker(record)}; how far it got is not known."
    if record.get("worker_id"):
        entered = "and has not entered its function yet" if ended is None else "and never entered its function"
        return f"It was assigned to {_worker(record)} {entered}.{_used(record)}"
    why = (record.get("queue") or {}).get("detail")
    if record.get("attempts"):
        if ended is not None:
            return "It was waiting for its next attempt, which never began."
        return f"It is waiting for its next attempt{f'; {why}' if why else ''}."
    if ended is not None:
        return f"It never started: no worker was assigned in the {_between(record['created_at'], ended)} until its end."
    position = (record.get("queue") or {}).get("position")
    place = f", {spelling.counted(position, 'job')} ahead of it" if position is not None else ""
    waited = _between(record["created_at"], now)
    return f"It has waited in the queue for {waited}{place}; {why or 'no worker is assigned yet'}."


def _used(record: Members) -> str:
    """Return the resources that it used, as counted by the kernel."""
    certificate = record.get("certificate") or {}
    user_s, system_s, peak = (certificate.get(name) for name in ("user_s", "system_s", "max_rss_bytes"))
    if user_s is None or system_s is None:
        return ""
    most = f" and at most {spelling.size(peak)} of memory" if peak is not None else ""
    return f" Its process used {spelling.duration(float(user_s) + float(system_s))} of processor time{most}."


def _progress(record: Members) -> str:
    words = progress_text(record.get("progress"))
    return f"; the progress last reported was {words}" if words else ""


def _end(record: Members) -> Paragraph:
    """Describe the end of its process, step by step."""
    certificate = record.get("certificate") or {}
    if is_lost(record):
        return Paragraph("End", "How its process ended is not known: its server or its machine failed.")
    if not any(phase in certificate for phase in PHASES):
        return Paragraph("End", "It had no process, so there was nothing to end.")
    if "requested" not in certificate:
        how = (
            LINGERED
            if certificate.get("lingered")
            else f"Its process ended{_exit(certificate)}; the server did not stop it."
        )
        return Paragraph("End", f"{how} {_proof(certificate, 'later')}")
    grace = certificate.get("grace_s")
    allowed = f", with a grace of {spelling.setting(float(grace))}" if grace is not None else ""
    intro = f"It was asked to stop{allowed}." if "term_sent" in certificate else "It was killed at once."
    if certificate.get("early_kill"):
        intro += f" SIGKILL was sent before the grace was over: {certificate['early_kill']}."
    if certificate.get("lingered"):
        intro += f" {LINGERED}"
    return Paragraph("End", f"{intro} Time since the request:", tuple(_steps(certificate)))


def _steps(certificate: Members) -> Iterator[str]:
    """Yield a line per step, with its time since the request; also for an expected step that is missing."""
    for moment, what in steps(certificate):
        yield f"{'-' if moment is None else _precise(moment):>9}  {what}"


def steps(certificate: Members) -> Iterator[tuple[float | None, str]]:
    """Yield each step's milliseconds since the request and its text; None for an expected step that is missing."""
    told, killed = "term_sent" in certificate, "kill_sent" in certificate
    if told:
        yield certificate["term_sent"], "SIGTERM was sent"
        if "delivered" in certificate:
            yield certificate["delivered"], "the process received it"
        elif killed:
            yield None, "Python's signal handler did not run: the job replaced it, or blocked the signal"
        if "acknowledged" in certificate:
            yield certificate["acknowledged"], "the job acknowledged it: Stopping was raised, and its clean-up began"
        elif "delivered" in certificate:
            yield None, "the job did not acknowledge it: its main thread was inside native code"
    if killed:
        yield certificate["kill_sent"], "SIGKILL was sent to the whole process tree"
    for phase, words in (
        ("exited", f"the process ended{_exit(certificate)}"),
        ("reaped", "its exit status was collected"),
        ("tree_empty", f"no process of it was left{_swept(certificate)}"),
        ("slot_ready", "the next worker was ready in its place"),
    ):
        if phase in certificate:
            yield certificate[phase], words
    if "tree_empty" not in certificate:
        yield None, f"it is not proven that no process of it is left{_why_unproven(certificate)}"


def _exit(certificate: Members) -> str:
    if certificate.get("exit_signal"):
        return f" by {certificate['exit_signal']}"
    if certificate.get("exit_code") is not None:
        return f" with exit code {certificate['exit_code']}"
    return ""


def _swept(certificate: Members) -> str:
    swept = ""
    if count := certificate.get("processes_swept"):
        swept = f", after the kill of {spelling.counted(count, 'process', 'processes')} that it had started"
    if count := certificate.get("shared_memory_removed"):
        swept += f", and the removal of {spelling.counted(count, 'piece')} of shared memory"
    return f"{swept} (proof: {certificate['proof']})" if certificate.get("proof") else swept


def _why_unproven(certificate: Members) -> str:
    return f": {certificate['unproven']}" if certificate.get("unproven") else ""


def _proof(certificate: Members, word: str) -> str:
    if "tree_empty" not in certificate:
        return f"It is not proven that no process of it is left{_why_unproven(certificate)}."
    when = spelling.milliseconds(certificate["tree_empty"])
    return f"{when} {word}, no process of it was left{_swept(certificate)}."


def _precise(ms: float) -> str:
    """Return a step's time, precise enough to distinguish consecutive steps."""
    return f"{ms:.1f} ms" if ms < 9999.5 else f"{ms / 1000:.3f} s"


def _place(record: Members) -> Iterator[Paragraph]:
    """Yield where the job was: its traceback, or its stack at the signal."""
    error, certificate = record.get("error") or {}, record.get("certificate") or {}
    path = certificate.get("operation")
    inside = f", in operation {path}" if path else ""
    if error.get("traceback"):
        yield Paragraph("Where", "The traceback:", tuple(str(error["traceback"]).rstrip().splitlines()))
    elif certificate.get("stack"):
        yield Paragraph(
            "Where", f"The job was here{inside}:", tuple(str(certificate["stack"]).rstrip().splitlines()[1:])
        )
    elif path:
        yield Paragraph("Where", f"The job was in operation {path}.")


def _last_output(record: Members, events: Sequence[Members]) -> Iterator[Paragraph]:
    """Yield its last tokens and the last lines that it printed."""
    count = int(record.get("tokens") or 0)
    text = "".join(_shown(event["data"]) for event in events if event["event"] == "token")
    if count and text:
        cut = text[-LAST_TOKENS_CHARS:]
        dots = "…" if len(cut) < len(text) else ""
        title = f"{spelling.counted(count, 'token')}, ending with:" if dots or count > 1 else "1 token:"
        yield Paragraph("Tokens", title, tuple(spelling.plain(line) for line in (dots + cut).rstrip("\n").split("\n")))
    elif count:
        yield Paragraph(
            "Tokens", f"{spelling.counted(count, 'token')}: killable stream {spelling.short(record['job_id'])}"
        )
    printed = [str(event["data"].get("text", "")) for event in events if event["event"] == "log"]
    if printed:
        lines = tuple(spelling.plain(line)[:LAST_TOKENS_CHARS] for line in printed[-LAST_LINES:])
        yield Paragraph("Printed", "The last lines of its stdout and stderr:", lines)
    if not count and not printed:
        words = "What it streamed is not known." if is_lost(record) else "It streamed nothing."
        yield Paragraph("Tokens", words)


def _shown(token: Members) -> str:
    if "text" in token:
        return str(token["text"])
    if "base64" in token:
        return "<bytes>"
    return json.dumps(token.get("value"), ensure_ascii=False) + "\n"


def _change(remedy: Remedy) -> Paragraph:
    return Paragraph("Change", f"{remedy.setting}. {remedy.words}" if remedy.setting else f"None. {remedy.words}")


def _moment(moment: str) -> str:
    day, _, time = moment.partition("T")
    return f"{time.removesuffix('Z')} UTC on {day}"


def _between(earlier: str, later: str | datetime | None) -> str:
    moment = datetime.fromisoformat(later) if isinstance(later, str) else later
    span = spelling.age_s(earlier, moment)
    return (
        "less than 1 ms" if span is not None and span < 0.001 else spelling.duration(span)
    )  # times have a resolution of 1 ms
