"""certificate.md: every field of a certificate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_type_hints

from killable.supervisor.models import PHASES, Certificate
from pages.markdown import attribute_docs, code, document, table


def page() -> str:
    names = list(Certificate._fields)
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
    return [(code(name), documented[name]) for name in names]


def _form(name: str) -> str:
    hint = get_type_hints(Certificate)[name]
    kinds = {str: "text", bool: "true", int: "whole number", float: "seconds"}
    return next(text for kind, text in kinds.items() if hint in (kind, kind | None))


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
