"""What leaves by OTLP has the names, units and kinds of OpenTelemetry's conventions, as their package has them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import Sum
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from killable.supervisor.telemetry.otlp_metrics import ITS_LABELS, ITS_NAME, UP_AND_DOWN, as_metric

COUNTERS = {"process_cpu_seconds"}


def modules(kind: str) -> Iterator[ModuleType]:
    for name in (f"opentelemetry.semconv.{kind}", f"opentelemetry.semconv._incubating.{kind}"):
        for found in pkgutil.iter_modules(importlib.import_module(name).__path__, f"{name}."):
            yield importlib.import_module(found.name)


class Instruments:
    """Stands for a meter; notes what the conventions' package would make of it."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, str]] = {}

    def __getattr__(self, kind: str) -> Any:
        return lambda name, unit, **_: self.made.update({name: (kind.removeprefix("create_"), unit)})


@pytest.fixture(scope="module")
def conventions() -> dict[str, tuple[str, str]]:
    meter = Instruments()
    for module in modules("metrics"):
        for name, create in vars(module).items():
            if name.startswith("create_") and inspect.isfunction(create):
                create(meter, *([] if len(inspect.signature(create).parameters) == 1 else [[]]))
    return meter.made


@pytest.mark.parametrize("family", sorted(ITS_NAME))
def test_a_metric_is_as_its_convention_has_it(family: str, conventions: dict[str, tuple[str, str]]) -> None:
    name, unit = ITS_NAME[family]
    kind = "counter" if family in COUNTERS else "up_down_counter" if family in UP_AND_DOWN else "histogram"
    assert conventions[name] == (kind, unit)


def test_attributes_are_known_to_them() -> None:
    known = {
        value
        for module in modules("attributes")
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    assert set(ITS_LABELS.values()) <= known


def test_what_may_fall_is_a_sum_that_says_so() -> None:
    metric = as_metric(GaugeMetricFamily("process_open_fds", "", 7), 10, 20)
    assert metric is not None and isinstance(metric.data, Sum)
    (point,) = metric.data.data_points
    assert not metric.data.is_monotonic and (point.value, point.start_time_unix_nano) == (7, 10)
    counter = as_metric(CounterMetricFamily("killable_tokens", "", 3), 10, 20)
    assert counter is not None and isinstance(counter.data, Sum) and counter.data.is_monotonic
