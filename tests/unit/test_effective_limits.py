"""Whose word counts on a limit."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from killable.supervisor.jobs.effective_limits import caps_of_type, limits_of_job, limits_of_type
from killable.supervisor.settings import JobSettings, Settings
from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, LIMITS, Limits, beside_defaults, over, value_of
from killable.workers.errors import Refused


def settings(
    limits: dict[str, Any] | None = None,
    caps: dict[str, float | None] | None = None,
    type_limits: dict[str, Any] | None = None,
    type_caps: dict[str, float | None] | None = None,
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


def test_a_node_is_told_only_what_is_not_the_default() -> None:
    said = {"run_s": None, "memory_bytes": None, "grace_s": 0.5, "operation_s": {"load": 1.0, "send": None}}
    limits = over(DEFAULT_LIMITS, said)
    assert beside_defaults(limits).keys() <= said.keys() and beside_defaults(DEFAULT_LIMITS) == {}
    assert over(DEFAULT_LIMITS, beside_defaults(limits)) == limits


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("server", "of_type", "cap"), [({"run_s": 10.0}, {}, 10.0), ({}, {"run_s": 5.0}, 5.0),
                                   ({"run_s": 10.0}, {"run_s": 5.0}, 5.0), ({"run_s": 5.0}, {"run_s": 10.0}, 5.0)]
)  # fmt: skip
def test_the_lower_cap_holds(server: dict[str, float | None], of_type: dict[str, float | None], cap: float) -> None:
    assert caps_of_type(settings(caps=server, type_caps=of_type), "work", {})["run_s"] == cap


OF_RESOURCES = {
    "memory_bytes": 2 << 30, "processes_max": 512, "threads_max": 1000, "tmp_bytes": 8 << 30, "output_bytes": 64 << 20
}  # fmt: skip


@pytest.mark.row("C4")
def test_a_submission_may_not_raise_what_bounds_a_job_unless_the_operator_says_so() -> None:
    defaults = limits_of_type(settings(), "work", {})
    caps = caps_of_type(settings(), "work", {})
    assert caps == OF_RESOURCES | {"run_s": 3600.0, "grace_s": 60.0}
    for limit, value in OF_RESOURCES.items():
        assert value_of(limits_of_job(defaults, caps, {limit: value}), limit) == value
        for asked in (value + 1, 1 << 50, *([None] if LIMITS[limit].may_be_none else [])):
            with pytest.raises(Refused, match="only the operator can raise") as caught:
                limits_of_job(defaults, caps, {limit: asked})
            assert (caught.value.code, caught.value.limit, caught.value.cap) == ("limit_over_cap", limit, value)


@pytest.mark.parametrize(
    ("given", "declared", "caps"),
    [
        # The word of the type's author is in force, whatever the built-in cap, and is the cap of its submissions.
        ({}, {"memory_bytes": 8 << 30, "run_s": 99999.0}, {"memory_bytes": 8 << 30, "run_s": 99999.0}),
        ({}, {"memory_bytes": 1 << 20, "run_s": 5.0}, {"memory_bytes": 1 << 20, "run_s": 3600.0}),
        ({}, {"memory_bytes": None, "cpu_s": 3.0}, {"memory_bytes": None, "cpu_s": 3.0}),
        # So is the operator's.
        ({"limits": {"memory_bytes": 3 << 30, "run_s": None}}, {}, {"memory_bytes": 3 << 30, "run_s": None}),
        ({"type_limits": {"memory_bytes": 3 << 30}}, {"memory_bytes": 1}, {"memory_bytes": 3 << 30}),
        ({"caps": {"memory_bytes": None}}, {"memory_bytes": 1 << 20}, {"memory_bytes": None}),
        ({"caps": {"memory_bytes": 9 << 30}}, {"memory_bytes": 1 << 20}, {"memory_bytes": 9 << 30}),
        ({"caps": {"memory_bytes": 9 << 30}, "type_caps": {"memory_bytes": None}}, {}, {"memory_bytes": 9 << 30}),
        ({"type_caps": {"memory_bytes": None}}, {}, {"memory_bytes": None}),
    ],
)  # fmt: skip
def test_a_cap_that_nobody_set_follows_from_the_type(
    given: dict[str, Any], declared: dict[str, Any], caps: dict[str, Any]
) -> None:
    found = caps_of_type(settings(**given), "work", declared)
    assert {limit: found.get(limit) for limit in caps} == caps
    in_force = limits_of_type(settings(**given), "work", declared)
    assert all(value_of(in_force, limit) == value for limit, value in declared.items() if "type_limits" not in given)


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
