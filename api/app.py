"""The application: routes, problems and checks put together over an engine that someone else starts and closes.

Runs in: api.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from killable.api import routes_jobs, routes_metrics, routes_ops
from killable.api.access import AccessCheck, BodyCheck
from killable.api.inputs import InputCheck
from killable.api.problems import install_problems
from killable.api.schemas import Problem
from killable.api.settings import HttpSettings
from killable.supervisor.engine import Engine


def create_app(engine: Engine, settings: HttpSettings | None = None) -> FastAPI:
    """Return the ASGI application over a started engine; several may live in one process.

    Close the engine before the server: that ends the jobs, and thereby their streams, with terminal events.
    """
    settings = settings or HttpSettings()
    app = _App(
        title="killable",
        summary="Jobs that can be stopped",
        version=version("killable"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.engine = engine
    app.state.settings = settings
    app.state.input_check = InputCheck()
    install_problems(app)
    app.include_router(routes_jobs.router)
    app.include_router(routes_ops.router)
    app.include_router(routes_metrics.router)
    # The last one added is the outermost: a foreign page is refused before it learns anything of CORS.
    app.add_middleware(BodyCheck, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Content-Type", "Prefer", "Last-Event-ID"],
            expose_headers=["Location", "Link", "Retry-After"],
        )
    app.add_middleware(AccessCheck, settings=settings)
    return app


class _App(FastAPI):
    """FastAPI whose `/openapi.json` knows the schema that every problem answer refers to."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schemas = super().openapi().setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
        return super().openapi()
