"""The role that each route needs on a server with API keys, and whether the route is about all jobs.

Runs in: api. `tests/contract/test_route_roles.py` compares the table with the routes of the application.
"""

from __future__ import annotations

from typing import Literal, get_args

from starlette.routing import compile_path

from killable.api.http.openai_paths import SUBMISSIONS
from killable.api.page.routes import PAGE_PATHS
from killable.workers.named_tuples import NamedTuple

Role = Literal["read", "submit", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what the ones before it may."""
Visibility = Literal["all", "own"]
VISIBILITIES: tuple[Visibility, ...] = get_args(Visibility)
CALLER = "killable.caller"
"""Member of a request's scope with its ApiKey; absent if the server has no keys or the request has only a ticket."""
VIA = "killable.via"
"""Member of the scope that says how the caller in it came there, if not by its key."""

SOCKET_USER = "uid:"
"""Begins the names of callers on the operators' socket; no key has such a name."""


class Access(NamedTuple):
    """What a route needs."""

    role: Role | None
    """None: not even a key."""
    whole_server: bool = False
    """It acts on the jobs of all keys, or counts them: not for a key that sees its own only."""
    verb: str = ""
    """Its name in the audit log, where it changes something."""
    notes_itself: bool = False
    """What it changes stands in its body: the route has it recorded (`audited_requests.note_now`)."""
    is_method: bool = True
    """False: the route only says 405, since without it the address would be that of a job with this id."""


LIVE_STREAMS = frozenset({"/v1/jobs/stream", "/v1/workers/stream"})
"""Streams of no one job, which are read with a ticket, too."""
_JOB = "/v1/jobs/{job_id}"
MCP_PATH = "/mcp"
_RESPONSE = "/v1/responses/{response_id}"
_FILE = "/v1/files/{file_id}"

ACCESS: dict[tuple[str, str], Access] = {
    # Load balancers and orchestrators have no key.
    ("GET", "/livez"): Access(None),
    ("GET", "/health"): Access(None),
    ("GET", "/readyz"): Access(None),
    # A browser has none before somebody has signed in; the page has no data in it.
    **{("GET", path): Access(None) for path in PAGE_PATHS},
    ("GET", "/openapi.json"): Access("read"),
    ("GET", "/v1/info"): Access("read"),
    ("GET", "/v1/job-types"): Access("read"),
    ("GET", "/v1/tenants"): Access("read"),
    ("GET", "/v1/workers"): Access("read"),
    ("GET", "/v1/workers/{worker_id}"): Access("read"),
    ("GET", "/v1/nodes"): Access("read"),
    ("GET", "/v1/jobs"): Access("read"),
    **{("GET", path): Access("read") for path in sorted(LIVE_STREAMS)},
    **{("DELETE", path): Access("operate", is_method=False) for path in sorted(LIVE_STREAMS)},
    ("GET", "/v1/stream-tickets"): Access("read"),
    ("GET", _JOB): Access("read"),
    ("GET", f"{_JOB}/stream"): Access("read"),
    ("GET", f"{_JOB}/story"): Access("read"),
    ("GET", f"{_JOB}/output"): Access("read"),
    ("GET", f"{_JOB}/result"): Access("read"),
    ("GET", f"{_JOB}/partial"): Access("read"),
    ("GET", f"{_JOB}/files"): Access("read"),
    ("GET", f"{_JOB}/files/{{name}}"): Access("read"),
    ("GET", "/v1/files"): Access("read"),
    ("GET", _FILE): Access("read"),
    ("GET", f"{_FILE}/content"): Access("read"),
    ("POST", "/v1/files"): Access("submit", verb="upload"),
    ("DELETE", _FILE): Access("submit", verb="delete_file"),
    ("GET", "/metrics"): Access("read", whole_server=True),
    ("GET", "/v1/metrics"): Access("read", whole_server=True),
    ("POST", "/v1/jobs"): Access("submit", verb="submit"),
    ("GET", "/v1/models"): Access("read"),
    ("GET", "/v1/models/{model:path}"): Access("read"),
    **{("POST", path): Access("submit", verb="submit") for path in sorted(SUBMISSIONS)},
    ("GET", _RESPONSE): Access("read"),
    ("POST", f"{_RESPONSE}/cancel"): Access("submit", verb="cancel"),
    ("DELETE", _JOB): Access("submit", verb="cancel"),
    ("POST", f"{_JOB}/cancel"): Access("submit", verb="cancel"),
    ("POST", "/v1/jobs/cancel"): Access("operate", verb="cancel_matching"),
    ("GET", "/v1/jobs/cancel"): Access("operate", is_method=False),
    ("DELETE", "/v1/jobs/cancel"): Access("operate", is_method=False),
    ("DELETE", "/v1/workers/{worker_id}"): Access("operate", whole_server=True, verb="kill_worker"),
    ("POST", "/v1/nodes/{name}/drain"): Access("operate", whole_server=True, verb="drain_node"),
    ("DELETE", "/v1/nodes/{name}/drain"): Access("operate", whole_server=True, verb="undrain_node"),
    ("POST", "/v1/drain"): Access("operate", whole_server=True, verb="drain"),
    ("GET", "/v1/drain"): Access("operate", whole_server=True),
    ("DELETE", "/v1/drain"): Access("operate", whole_server=True, verb="undrain"),
    ("POST", "/v1/reload"): Access("operate", whole_server=True, verb="reload"),
    ("GET", "/v1/reload"): Access("operate", whole_server=True),
    ("POST", "/v1/shutdown"): Access("operate", whole_server=True, verb="shutdown"),
    ("GET", MCP_PATH): Access("submit"),
    ("POST", MCP_PATH): Access("submit", notes_itself=True),
    ("DELETE", MCP_PATH): Access("submit", notes_itself=True),
}
"""By method and path. A route that is not in it needs the role operate."""

OPEN_PATHS = frozenset(path for (_, path), access in ACCESS.items() if access.role is None)
NOTHING_THERE = Access("read")
"""Of an address that no route has: any key, for an answer that says so."""
_PATTERNS = tuple((method, compile_path(path)[0], access) for (method, path), access in ACCESS.items() if "{" in path)
"""As Starlette's router matches them."""


def access_to(method: str, path: str) -> Access:
    """Return what a request needs. HEAD is GET."""
    method = "GET" if method == "HEAD" else method
    found = ACCESS.get((method, path))
    if found is not None:
        return found
    return next((access for its, fits, access in _PATTERNS if its == method and fits.match(path)), NOTHING_THERE)


def methods_of(path: str) -> set[str]:
    """Return the methods of an address, without HEAD."""
    exact = {method: access for (method, its), access in ACCESS.items() if its == path}
    fitting = {method: access for method, fits, access in _PATTERNS if fits.match(path)}
    return {method for method, access in (exact or fitting).items() if access.is_method}


def includes(role: Role, needed: Role) -> bool:
    """Return whether a role may do what another one may."""
    return ROLES.index(role) >= ROLES.index(needed)
