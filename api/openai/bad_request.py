"""What is wrong with the body of an OpenAI request: faults, each with a code of OpenAI's.

Runs in: api, and in the processes that check inputs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from killable.api.http.request_faults import FAULTS_MAX, fault

MISSING, UNSUPPORTED, WRONG_TYPE, WRONG_VALUE = (
    *("missing_required_parameter", "unsupported_parameter", "invalid_type", "invalid_value"),
)


class BadRequest(Exception):
    """A request with faults."""

    def __init__(self, faults: Iterable[dict[str, str]]) -> None:
        self.faults = list(faults)
        super().__init__(self.faults)


class Faults(list[dict[str, str]]):
    """The faults of a request, as they are found. As many as are told are enough: then it raises BadRequest."""

    def append(self, fault: dict[str, str]) -> None:
        super().append(fault)
        if len(self) >= FAULTS_MAX:
            raise BadRequest(self)

    def extend(self, faults: Iterable[dict[str, str]]) -> None:
        for each in faults:
            self.append(each)

    def __iadd__(self, faults: Iterable[dict[str, str]]) -> Self:  # type: ignore[override, misc]
        self.extend(faults)
        return self


def wrong(path: Sequence[str | int], message: str, code: str = WRONG_VALUE) -> dict[str, str]:
    """Return a fault of the body, with its code."""
    return {**fault("body", path, message), "code": code}
