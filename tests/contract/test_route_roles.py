"""The table of roles has every route of the application, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from starlette.routing import Route

from killable.api.app import create_app
from killable.api.http.route_roles import ACCESS, NOTHING_THERE, ROLES, access_to, includes, methods_of


def _every_route(routes: Iterable[Any]) -> set[tuple[str, str]]:
    """Return those that are not in the description, too. HEAD is what GET is."""
    found = set()
    for route in routes:
        if isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
        else:
            found |= _every_route(route.original_router.routes)  # how newer versions of FastAPI include a router
    return found


def test_every_route_has_its_row() -> None:
    app = create_app(cast(Any, None))
    assert _every_route(app.routes) == set(ACCESS)


def test_a_route_without_a_row_would_be_seen() -> None:
    app = create_app(cast(Any, None))
    app.add_api_route("/v1/secrets", lambda: None)
    assert _every_route(app.routes) - set(ACCESS) == {("GET", "/v1/secrets")}


def test_the_methods_of_an_address_are_those_that_are_described() -> None:
    described = create_app(cast(Any, None)).openapi()["paths"]
    for path, operations in described.items():
        assert methods_of(path) == {method.upper() for method in operations}, path
    assert methods_of("/v1/models/a/b") == {"GET"} and methods_of("/v1/jobs/x/y") == set()


def test_what_changes_something_is_not_for_readers() -> None:
    for (method, path), access in ACCESS.items():
        if method != "GET":
            assert access.role in ("submit", "operate"), path
        assert access.role is not None or method == "GET", path


def test_an_address_gets_the_row_of_its_route() -> None:
    for (method, path), access in ACCESS.items():
        assert access_to(method, path.replace("{job_id}", "job-1").replace("{worker_id}", "w-1\n")) == access
    assert access_to("HEAD", "/v1/jobs/x/stream") == ACCESS["GET", "/v1/jobs/{job_id}/stream"]
    for nothing in ("/v1/jobs/x/y", "/v1/jobs/", "/v1/shutdown/", "//v1/shutdown"):
        assert access_to("POST", nothing) is NOTHING_THERE


def test_each_role_may_what_those_before_it_may() -> None:
    assert [[includes(role, needed) for needed in ROLES] for role in ROLES] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
