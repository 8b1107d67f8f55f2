"""Whose word counts on a limit."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from killable.supervisor.jobs.limits import caps_of_type, limits_of_job, limits_of_type
from killable.supervisor.settings import JobSettings, Settings
from killable.workers.authoring.limits import DEFAULT_LIMITS, LIMITS, Limits, over, value_of
from killable.workers.errors import Refused


def settings(
    limits: dict[str, Any] | None = None,
    caps: dict[str, float] | None = None,
    type_limits: dict[str, Any] | None = None,
    type_caps: dict[str, float] | None = None,
) -> Settings:
    jobs = {"work": JobSettings(type_limits or {}, type_caps or {})}
    return Settings(pools=(), limits=over(DEFAULT_LIMITS, limits or {}), caps=caps or {}, jobs=jobs)


def test_nobody_said_anything() -> None:
    assert limits_of_type(settings(), "work", {}) == limits_of_type(settings(), "another", {}) == DEFAULT_LIMITS


@pytest.mark.row("C3")
def test_the_closer_word_wins() -> None:
    said = {"run_s": 1.0, "grace_s": 1.0, "queue_s": 1.0}
    declared = {"grace_s": 2.0, "queue_s": 2.0}
    in_force = limits_of_type(settings(said, type_limits={"queue_s": 3.0}), "work", declared)
    assert (in_force["run_s"], in_force["grace_s"], in_force["queue_s"]) == (1.0, 2.0, 3.0)
    for_one = limits_of_job(in_force, {}, {"run_s": 4.0, "memory_bytes": None})
    assert (for_one["run_s"], for_one["grace_s"], for_one["memory_bytes"]) == (4.0, 2.0, None)


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("server", "of_type", "cap"), [({"run_s": 10.0}, {}, 10.0), ({}, {"run_s": 5.0}, 5.0),
                                   ({"run_s": 10.0}, {"run_s": 5.0}, 5.0), ({"run_s": 5.0}, {"run_s": 10.0}, 5.0)]
)  # fmt: skip
def test_the_lower_cap_holds(server: dict[str, float], of_type: dict[str, float], cap: float) -> None:
    assert caps_of_type(settings(caps=server, type_caps=of_type), "work") == {"run_s": cap}


@pytest.mark.row("C4")
@pytest.mark.parametrize(("value", "expected"), [(600.0, 50.0), (50.0, 50.0), (1.0, 1.0), (None, 50.0)])
def test_a_default_above_its_cap_is_the_cap(value: float | None, expected: float) -> None:
    in_force = limits_of_type(settings({"run_s": value}, caps={"run_s": 50.0}), "work", {})
    assert in_force["run_s"] == expected


def test_a_lowered_number_of_bytes_stays_a_whole_number() -> None:
    in_force = limits_of_type(settings(caps={"memory_bytes": 1e6, "output_bytes": 1e3}), "work", {})
    assert (in_force["memory_bytes"], in_force["output_bytes"]) == (1_000_000, 1000)
    assert type(in_force["memory_bytes"]) is type(in_force["output_bytes"]) is int


@pytest.mark.row("C4")
@pytest.mark.parametrize("limit", LIMITS)
def test_more_than_the_cap_is_refused_by_name(limit: str) -> None:
    def asking(value: Any) -> dict[str, Any]:
        return {limit: {"load": value}} if limit == "operation_s" else {limit: value}

    name = "operation_s.load" if limit == "operation_s" else limit
    assert value_of(limits_of_job(DEFAULT_LIMITS, {limit: 100.0}, asking(100)), limit) == asking(100)[limit]
    for asked in (100.5, None):
        with pytest.raises(Refused) as caught:
            limits_of_job(DEFAULT_LIMITS, {limit: 100.0}, asking(asked))
        error = caught.value
        assert (error.code, error.limit, error.cap, error.asked) == ("limit_over_cap", name, 100.0, asked)
        assert name in error.message


@pytest.mark.row("C6")
def test_the_times_of_operations_are_laid_over_each_other_one_by_one() -> None:
    declared = {"operation_s": {"load": 1.0, "load/unpack": 2.0}}
    in_force = limits_of_type(settings({"operation_s": {"load": 5.0, "save": 3.0}}), "work", declared)
    assert in_force["operation_s"] == {"load": 1.0, "save": 3.0, "load/unpack": 2.0}
    capped = limits_of_type(settings(caps={"operation_s": 1.5}), "work", declared)
    assert capped["operation_s"] == {"load": 1.0, "load/unpack": 1.5}
    assert limits_of_job(in_force, {}, {"operation_s": {"save": None}})["operation_s"]["save"] is None


def test_a_cap_says_nothing_of_what_was_not_asked_for() -> None:
    defaults = over(DEFAULT_LIMITS, {"run_s": 1.0})
    assert limits_of_job(defaults, {"run_s": 0.5}, {}) == defaults


def test_the_names_of_limits_are_the_same_everywhere() -> None:
    """What a decorator may name, and what `killable.Limits` types."""
    assert tuple(LIMITS) == tuple(Limits.__annotations__) == tuple(DEFAULT_LIMITS)
    none_allowed = {name for name, kind in LIMITS.items() if kind.may_be_none}
    hints = get_type_hints(Limits)
    assert none_allowed == {name for name, hint in hints.items() if type(None) in get_args(hint)}
