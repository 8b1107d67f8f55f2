"""What OpenTelemetry's conventions for generative AI have a server measure, of the jobs that answer OpenAI's requests.

Runs in: supervisor. Each choice of a request is a job, and counts as a request of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram

from killable.supervisor.jobs.job import Job

OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""`gen_ai.operation.name` by the kind of a job type; kinds that are absent generate nothing."""
PROVIDER = "killable"
USAGE_BYTES_MAX = 64 << 10
"""A larger result is not parsed for its usage: that would hold up the event loop."""
_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EACH_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4**power for power in range(14))
"""Buckets, as the conventions have them."""


class GenAiMetrics:
    """Of one supervisor."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Time from the acceptance of a generation until its end",
            (*_LABELS, "error_type"), buckets=DURATION_S, registry=registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the acceptance until the first token, of what completed",
            _LABELS, buckets=FIRST_TOKEN_S, registry=registry,
        )  # fmt: skip
        self._each_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time for each token after the first, of what completed",
            _LABELS, buckets=EACH_TOKEN_S, registry=registry,
        )  # fmt: skip
        self._usage = Histogram(
            "gen_ai_client_token_usage", "Tokens of what completed, by type: input, output",
            (*_LABELS, "gen_ai_token_type"), buckets=TOKENS, registry=registry,
        )  # fmt: skip

    def on_ended(self, job: Job) -> None:
        """Note a job whose outcome is stored."""
        outcome = job.outcome
        if job.type.openai not in OPERATIONS or outcome is None or job.ended is None:
            return
        labels, exemplar = _labels(job), job.exemplar
        self._duration.labels(*labels, outcome.code or "").observe(job.ended - job.created, exemplar)
        if outcome.state != "completed":
            return
        tokens, first_token = job.log.tokens, job.first_token
        if first_token is not None:
            self._first_token.labels(*labels).observe(first_token - job.created, exemplar)
            if tokens > 1:
                self._each_token.labels(*labels).observe((job.ended - first_token) / (tokens - 1), exemplar)
        for kind, number in _usage_of(job.result):
            self._usage.labels(*labels, kind).observe(number, exemplar)


def _labels(job: Job) -> tuple[str, str, str]:
    return OPERATIONS[job.type.openai], PROVIDER, job.type.openai_model


def _usage_of(result: bytes | None) -> Iterator[tuple[str, int]]:
    if result is None or len(result) > USAGE_BYTES_MAX:
        return
    value = json.loads(result)
    usage = value.get("usage") if isinstance(value, dict) else None
    if isinstance(usage, dict):
        for kind, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if type(usage.get(name)) is int:
                yield kind, usage[name]
