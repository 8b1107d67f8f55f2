"""The settings of a server, `[server]` of `killable.toml`: those of its supervisor, its HTTP side and its log.

Runs in: supervisor. Pure. Apart from `settings`, because an Executor, which has none of these, starts without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from killable.supervisor.settings import (
    Count,
    Port,
    PositiveBytes,
    PositiveCount,
    PositiveSeconds,
    Seconds,
    Share,
    SupervisorSettings,
)


@dataclass(frozen=True)
class HttpServerSettings:
    """The part of `[server]` that the HTTP side uses: address, access, bounds of a request."""

    host: str = "127.0.0.1"
    """Address to listen on; any address but loopback needs an API key."""
    port: Port = 7833
    """TCP port to listen on; 0 takes a free one."""
    uds: str = ""
    """Path of a Unix socket (mode 0600) to listen on instead of host and port."""
    api_keys_file: str = ""
    """File readable only by its owner, with the keys that `killable keys` makes; KILLABLE_API_KEY adds one."""
    visibility: Literal["all", "own"] = "all"
    """Jobs that a key sees and may cancel: all, or those of its own name; a key's line may say otherwise."""
    inputs_shown_to: Literal["read", "submit", "operate"] = "operate"
    """Lowest role that is shown what keep_input_bytes keeps, of the jobs that the key sees; with redact nobody is."""
    operator_socket: str = ""
    """Path of a Unix socket for operators (root, and the user of the server), who need no key there; empty: none."""
    audit_log: str = ""
    """File to which it is appended who did what: a JSON object a line, readable by its owner only; empty: none."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, besides loopback and `host`, under which clients reach this server."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; empty: of nobody."""
    mcp: bool = False
    """Serve job types as tools of the Model Context Protocol at /mcp; needs the extra: pip install "killable[mcp]"."""
    cors_origins: tuple[str, ...] = ()
    """Origins like "https://app.example" whose pages may call this server."""
    connections_max: PositiveCount = 2000
    """Maximum number of open connections; one more closes the one that has been idle longest, or is refused (503)."""
    connections_per_address_max: Count = 0
    """Maximum number of connections from one address (of IPv6: from one /64); 0: 95 % of connections_max."""
    connections_per_key_max: Count = 0
    """Maximum number of requests of one key at once, streams among them; 0: half of connections_max, if several share.
    """
    header_timeout_s: PositiveSeconds = 10.0
    """Time until a request's header must be complete, from its first byte or, on a new connection, from its start."""
    body_bytes_max: PositiveBytes = 1 << 20
    """Maximum size of a request body; a larger one is refused (413)."""
    bodies_bytes_max: PositiveBytes = 64 << 20
    """Maximum size of all request bodies that are being received and checked; more is refused (503 busy)."""
    input_check_s: PositiveSeconds = 2.0
    """Time for the check of one job's input; one that takes longer is refused (422 input.invalid)."""
    result_inline_bytes_max: PositiveBytes = 64 << 10
    """Maximum size of a result in a job's record; a larger one is replaced by a reference to its own address."""


@dataclass(frozen=True)
class ClusterSettings:
    """Many machines, which a Ray cluster connects: `[cluster]` of `killable.toml`."""

    ray: str = ""
    """Address of Ray's head, like "10.0.0.1:6379", or "auto" for that of this machine; empty: no other machines."""
    lease_s: PositiveSeconds = 10.0
    """Time without a word from this server after which a node ends all its jobs, which end with node_lost."""
    poll_s: PositiveSeconds = 3.0
    """Time after which a node without news answers; at most a third of lease_s."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Labels of the machines to use, like { zone = "a" }; empty: every machine with processors."""
    packing: Literal["spread", "fill"] = "spread"
    """Which node gets the next job: the one with the most free slots, or with the fewest."""
    reserve_cpus: bool = True
    """Whether a node reserves a processor in Ray for each of its slots: Ray puts nothing else there, and keeps it."""
    autoscale_cpus_max: Count = 1000
    """Processors that Ray's autoscaler is asked for at most, while jobs wait; 0: it is not asked."""
    idle_s: Seconds = 0.0
    """Time after which a node without jobs is given back, so that its machine can be removed; 0: never."""
    insecure: bool = False
    """Use a Ray cluster without token authentication: whoever reaches one can run anything on each of its machines."""


@dataclass(frozen=True)
class WebhookSettings:
    """Telling others how jobs ended: `[webhooks]` of `killable.toml`."""

    secrets_file: str = ""
    """File readable only by its owner, with the secrets that sign, a line `TENANT whsec_...`; empty: no webhooks."""
    allow: tuple[str, ...] = ()
    """Networks like "10.1.0.0/16" that webhooks may be sent to although they are private; http:// goes only there."""
    attempts_max: PositiveCount = 10
    """Attempts to deliver a webhook, as long as its job is kept."""
    backoff_s: PositiveSeconds = 5.0
    """Approximate wait before the second attempt; doubled each time, up to an hour."""
    timeout_s: PositiveSeconds = 10.0
    """Time for one attempt, from the look-up of the name to the status."""
    waiting_max: PositiveCount = 1000
    """Maximum number of webhooks that wait; half of it for one tenant. One more is given up."""


@dataclass(frozen=True)
class TelemetrySettings:
    """Traces and metrics over OpenTelemetry's protocol: `[telemetry]` of `killable.toml`.

    What is not said here goes by OpenTelemetry's own variables (OTEL_*); without an endpoint nothing is sent.
    """

    endpoint: str = ""
    """Address of a collector, like "http://localhost:4318"; empty: OTEL_EXPORTER_OTLP_ENDPOINT; without it, nothing."""
    service_name: str = ""
    """What the server is called in traces; empty: OTEL_SERVICE_NAME, without it "killable"."""
    headers_variable: str = "OTEL_EXPORTER_OTLP_HEADERS"
    """Environment variable with the headers of what is sent, `name=value,name=value`: they may be secret."""
    sample_ratio: Share = 1.0
    """Share of the traces begun here that are sent; a trace that a caller began is sent if its caller's is."""
    traces: bool = True
    """Whether traces are sent."""
    metrics: bool = True
    """Whether metrics are sent. /metrics has them, too."""
    metrics_every_s: PositiveSeconds = 60.0
    """Time between two sendings of the metrics."""
    timeout_s: PositiveSeconds = 10.0
    """Time for one sending, with its repetitions; longer, and what was to be sent is dropped and counted."""
    waiting_max: PositiveCount = 2048
    """Ended jobs and requests that wait to be sent; of more the spans are dropped and counted."""
    flush_s: Seconds = 5.0
    """Time at the server's end for what waits to be sent."""


@dataclass(frozen=True)
class ServerSettings(SupervisorSettings, HttpServerSettings):
    """The HTTP side, the bounds of the queue and of kept jobs, and the log: `[server]` of `killable.toml`.

    The string under a setting is its documentation everywhere: in the JSON Schema and in `killable config --example`.
    """

    drain_s: Seconds = 0.0
    """Time after Ctrl-C or SIGTERM for jobs to end by themselves, before each is cancelled with its own grace."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level logged to stderr; info has a line for each step of a job's life."""
    log_format: Literal["text", "json"] = "text"
    """Format of the log: text, or json with one object per line."""
    log_burst: Count = 1000
    """Records of one noisy event in ten seconds; further ones are counted in one line (left_out). 0: all are logged."""
    redact: bool = False
    """Keep text from jobs and clients (errors, reasons, tags) out of the server's own log; tokens are never in it."""
