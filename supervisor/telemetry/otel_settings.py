"""Which telemetry a server sends, and where to: `[telemetry]` of killable.toml, else OpenTelemetry's variables.

Runs in: supervisor, before it starts. Pure, and without OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from killable.supervisor.http_server_settings import TelemetrySettings
from killable.supervisor.telemetry.sampling import SAMPLERS
from killable.workers.named_tuples import NamedTuple

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES, METRICS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
INSTALL = 'pip install "killable[otel]"'
DEFAULT_SAMPLER = "parentbased_traceidratio"


class Targets(NamedTuple):
    """Where telemetry is sent; an empty address: nowhere."""

    traces: str
    metrics: str
    sampler: str
    ratio: float
    doubts: tuple[str, ...] = ()
    """What variables say that is not done."""

    @property
    def are_any(self) -> bool:
        return bool(self.traces or self.metrics)


def targets_of(settings: TelemetrySettings, environ: Mapping[str, str]) -> Targets:
    """Return where a server with these settings sends its telemetry, in this environment."""
    doubts: list[str] = []
    is_off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    traces = _address(settings.endpoint, environ, TRACES, "v1/traces")
    metrics = _address(settings.endpoint, environ, METRICS, "v1/metrics")
    if is_off or not settings.traces or environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        traces = ""
    if is_off or not settings.metrics or environ.get("OTEL_METRICS_EXPORTER", "otlp") == "none":
        metrics = ""
    protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    if protocol not in ("", "http/protobuf"):
        doubts.append(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: http/protobuf is used")
    sampler, ratio = DEFAULT_SAMPLER, settings.sample_ratio
    if (named := environ.get("OTEL_TRACES_SAMPLER", "").strip()) and settings.sample_ratio == 1.0:
        if named in SAMPLERS:
            sampler, ratio = named, _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG", ""), doubts)
        else:
            doubts.append(f"OTEL_TRACES_SAMPLER={named}: there are {', '.join(SAMPLERS)}; {sampler} is used")
    return Targets(traces, metrics, sampler, ratio, tuple(doubts))


def _address(endpoint: str, environ: Mapping[str, str], variable: str, path: str) -> str:
    base = endpoint or environ.get(BASE, "").strip()
    own = "" if endpoint else environ.get(variable, "").strip()
    return own or (f"{base.rstrip('/')}/{path}" if base else "")


def _ratio(text: str, doubts: list[str]) -> float:
    try:
        ratio = float(text or 1.0)
        if not 0 <= ratio <= 1:
            raise ValueError
    except ValueError:
        doubts.append(f"OTEL_TRACES_SAMPLER_ARG={text}: it is no number from 0 to 1; 1 is used")
        return 1.0
    return ratio


def faults_of(settings: TelemetrySettings) -> Iterator[tuple[str, str, str]]:
    """Yield the key, what was expected and what was found, for all that is wrong with an endpoint in killable.toml."""
    if not settings.endpoint:
        return
    try:
        url = urlsplit(settings.endpoint)
        is_address = url.scheme in ("http", "https") and bool(url.hostname) and not url.query and url.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        expected = 'expected the address of a collector for OTLP over HTTP, like "http://localhost:4318"'
        yield "telemetry.endpoint", expected, f'"{settings.endpoint}"'
    elif not is_installed():
        yield "telemetry.endpoint", f"expected OpenTelemetry to be installed: {INSTALL}", "there is no such package"


def is_installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in PACKAGES)
    except ModuleNotFoundError:
        return False
