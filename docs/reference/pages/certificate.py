"""certificate.md: every field of a certificate."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields

from killable.supervisor.models import PHASES, Certificate
from pages.markdown import attribute_docs, code, document, table

ABOUT = {
    "requested": "Always 0. Absent for an end that no one asked for: then the phases count from the exit.",
    "term_sent": "SIGTERM was sent.",
    "delivered": "The signal reached the worker process.",
    "acknowledged": "Python's signal handler ran; the clean-up of the job begins. Absent for native code.",
    "kill_sent": "SIGKILL was sent.",
    "exited": "The worker process exited.",
    "reaped": "Its exit status was collected.",
    "tree_empty": "Nothing that the job had started was alive any more.",
    "slot_ready": "The next worker was warm in its place.",
    "cause": "The error code of the end, such as `cancelled` or `timeout.run`.",
    "by": "Who asked for a cancel: `user`, `client_gone`, `operator` or `shutdown`; `supervisor` for a limit.",
    "reason": "What the caller gave as the reason.",
    "exit_code": "With what the worker exited: see [Exit codes](exit-codes.md).",
    "exit_signal": "The signal that ended the worker, such as `SIGKILL`.",
    "max_rss_bytes": "The most that the largest process of the worker had in memory, a preloaded model included.",
    "user_s": "Processor time that the worker took in user mode; of a worker that was used again, for all of its jobs.",
    "system_s": "The same in kernel mode.",
    "tokens": "Number of tokens that the attempt wrote.",
}
"""What a field without a docstring is. A docstring in the code goes before a line here."""


def page() -> str:
    names = [each.name for each in fields(Certificate)]
    phases = [name for name in names if name in ("requested", *PHASES)]
    facts = [name for name in names if name not in phases]
    return document(
        "Certificate",
        INTRO,
        "## Phases",
        TIMES,
        table(("Field", "Meaning"), _rows(phases)),
        "## Facts",
        table(
            ("Field", "Type", "Meaning"),
            ((name, _form(field), about) for (name, about), field in zip(_rows(facts), facts, strict=True)),
        ),
    )


def _rows(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    documented = attribute_docs(Certificate)
    return [(code(name), documented.get(name) or ABOUT[name]) for name in names]


def _form(name: str) -> str:
    hint = str(inspect.get_annotations(Certificate)[name]).removesuffix(" | None")
    return {"str": "text", "bool": "true", "int": "whole number", "float": "seconds"}[hint]


INTRO = """
The certificate is the timed record of how an attempt ended. It is in the record of a job (`GET /v1/jobs/ID`), in its
last event, in the answer to a cancel, in `future.certificate` of an Executor and in `error.certificate` of an error.
`killable explain JOB` puts it into sentences.

A field that is not known, or a step that did not happen, is absent. A job that never had a worker has no phases.
"""
TIMES = """
Phases are milliseconds after the request, in the order in which they stand here; they never decrease. Each is the
moment at which the server learned of it, so on a busy machine several may be equal. `tree_empty` is the proof that a
cancelled job is dead.
"""
