"""Checks a job's input against the JSON Schema of its type: in the event loop if that is short, else in a process.

Runs in: api.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from killable.api.http.check_pool import CheckPool
from killable.api.http.input_faults import find_faults, is_bounded, validator_of
from killable.api.http.request_faults import FAULTS_MAX, fault, invalid
from killable.supervisor.models import JobType
from killable.workers.authoring.file_type import FILE_FORMAT
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.messages import dump_json

IN_LOOP_BYTES_MAX = 16 << 10
IN_LOOP_VALUES_MAX = 500
"""A larger input is checked in a process: jsonschema is Python code and takes 5 µs or more per value, and the kill path
runs on this event loop.
"""


_FILE_IDS = re.compile(rb'"(file-[0-9a-f]{32})"')


class _Checker(NamedTuple):
    """What is kept of a type's schema until it changes."""

    validator: Draft202012Validator
    is_bounded: bool
    has_files: bool
    """Whether one of its parameters is an uploaded file, or may be one."""


class InputCheck:
    """Checks inputs."""

    def __init__(self, pool: CheckPool) -> None:
        self._pool = pool
        self._checkers: dict[str, _Checker] = {}

    async def encode(
        self, job_type: JobType, members: Mapping[str, Any] | bytes, prefix: tuple[str, ...], tenant: str
    ) -> bytes:
        """Return the input as JSON; bytes are JSON already, and not read here.

        Raise Refused: `invalid` with its faults, whose pointers start with `prefix`; `input.invalid` if it cannot be
        checked; `busy`.
        """
        try:
            payload = members if isinstance(members, bytes) else dump_json(members)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else "has a number that is not finite"
            raise invalid([fault("body", prefix, why)]) from error
        checker = self._checker(job_type)
        if isinstance(members, bytes) or not (checker.is_bounded and _is_small(payload)):
            faults = await self._pool.check(job_type.input_schema, payload, prefix, tenant)
        else:
            try:
                faults = find_faults(checker.validator, members, prefix)
            except (RecursionError, OverflowError) as error:
                why = "nested too deeply" if isinstance(error, RecursionError) else "has a number that is too large"
                raise invalid([fault("body", prefix, why)]) from error
        if faults:
            raise invalid(faults[:FAULTS_MAX], more=len(faults) > FAULTS_MAX)
        return payload

    def file_ids(self, job_type: JobType, payload: bytes) -> tuple[str, ...]:
        """Return the ids of the files that an input has. In a type that takes files each text counts that is one."""
        if not self._checker(job_type).has_files:
            return ()
        return tuple(dict.fromkeys(found.decode() for found in _FILE_IDS.findall(payload)))

    def _checker(self, job_type: JobType) -> _Checker:
        checker, schema = self._checkers.get(job_type.name), job_type.input_schema
        if checker is None or checker.validator.schema != schema:
            checker = self._checkers[job_type.name] = _Checker(
                validator_of(schema), is_bounded(schema), FILE_FORMAT in dump_json(schema).decode()
            )
        return checker


def _is_small(payload: bytes) -> bool:
    """Return whether the check is short enough for the loop. Commas and colons within strings count as values, too."""
    if len(payload) > IN_LOOP_BYTES_MAX:
        return False
    return payload.count(b",") + payload.count(b":") <= IN_LOOP_VALUES_MAX
