"""http.md: every route with its parameters, bodies and problems, from the app's OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from killable.api.app import create_app
from killable.api.http import schemas
from killable.api.http.responses import COMMON_CODES
from killable.api.http.route_roles import ACCESS
from killable.supervisor.engine import Engine
from pages.markdown import code, document, slug, table

TAGS = {
    "jobs": "Jobs", "files": "Files", "live": "Live streams", "operator": "Operator", "server": "Server",
    "metrics": "Metrics", "openai": "OpenAI",
}  # fmt: skip
"""Tags of the description, and their headings in the order of the page."""
COMMON = (*COMMON_CODES, "unauthorized")
JSON = "application/json"
PROBLEM = "application/problem+json"
BY_DEFAULT = "Successful Response"
"""What FastAPI writes where a route says nothing."""
METHODS = ("get", "post", "delete")


def page() -> str:
    app = create_app(cast(Engine, None))
    described = app.openapi()
    # The description has no converters: `{model:path}` is `{model}` there.
    roles = {
        (method.lower(), re.sub(r":\w+}", "}", path)): access.role or "open"
        for (method, path), access in ACCESS.items()
    }
    operations = [
        (tag, method, path, operation)
        for path, item in described["paths"].items()
        for method, operation in item.items()
        for tag in operation["tags"]
    ]
    assert {tag for tag, *_ in operations} == {*TAGS}, "a route without a section"
    if without := {(method, path) for _, method, path, _ in operations} - roles.keys():
        named = ", ".join(f"{method.upper()} {path}" for method, path in sorted(without))
        raise SystemExit(f"api/http/route_roles.py: ACCESS has no row for {named}")
    operations.sort(key=lambda each: (each[2], METHODS.index(each[1])))
    sections: list[str] = []
    for tag, title in TAGS.items():
        own = [(method, path, operation) for name, method, path, operation in operations if name == tag]
        overview = (
            (f"[`{method.upper()} {path}`](#{_anchor(method, path)})", _summary(operation), roles[method, path])
            for method, path, operation in own
        )
        sections += [f"## {title}", table(("Route", "What it does", "Role"), overview)]
        sections += [part for method, path, operation in own for part in _operation(method, path, operation)]
    members = described["components"]["schemas"]
    shown = (part for name in sorted(members) for part in _schema(name, members[name], members))
    return document("HTTP API", INTRO, *sections, "## Schemas", SCHEMAS, *shown)


def _anchor(method: str, path: str) -> str:
    return slug(f"{method} {path}")


def _summary(operation: Mapping[str, Any]) -> str:
    return str(operation["description"]).split("\n\n", 1)[0]


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`"
    yield " ".join(operation["description"].replace("\n\n", "\0").split()).replace("\0", "\n\n")
    yield table(("Parameter", "In", "Type", "Default", "Meaning"), map(_parameter, operation.get("parameters", ())))
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{kind}`: {type_of(body['schema'])}."
    yield table(("Status", "Meaning", "Body"), _responses(operation["responses"]))


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, ...]:
    schema = parameter["schema"]
    name = parameter["name"]
    if parameter["in"] == "header":
        name = "Last-Event-ID" if name == "last-event-id" else name.title()
    default = "required" if parameter["required"] else _default(schema)
    return code(name), parameter["in"], type_of(schema), default, parameter.get("description", "")


def _responses(responses: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what is particular to a route: what every route can answer stands once, above."""
    for status, response in sorted(responses.items()):
        content = response.get("content", {})
        if status == "default":
            continue
        if PROBLEM in content:
            own = [each for each in response["description"].split(" · ") if each.split("`")[1] not in COMMON]
            if own:
                yield status, " · ".join(own), ""
        else:
            bodies = (
                type_of(each["schema"]) if kind == JSON and each else code(kind) for kind, each in content.items()
            )
            yield status, response["description"].replace(BY_DEFAULT, ""), ", ".join(bodies)


def _schema(name: str, schema: Mapping[str, Any], members: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{name}`"
    yield " ".join(schema.get("description", "").split())
    extended = next((each for each in _bases(name) if each in members), None)
    if extended is not None:
        yield f"All members of [`{extended}`](#{slug(extended)}), and:"
    inherited = members[extended]["properties"] if extended is not None else {}
    required = schema.get("required", ())
    rows = (
        (code(member), type_of(each), _needed(name, member in required, each), _about(each))
        for member, each in schema.get("properties", {}).items()
        if member not in inherited
    )
    yield table(("Member", "Type", "Default", "Meaning"), rows)
    yield NOTES.get(name, "")


NOTES = {
    "LimitsRequest": "A limit that is left out is that of the job type. [Limits](limits.md) says what each bounds.",
    "OperationRequest": "Every other member is a member of the job's input.",
    "Problem": "Further members are the facts of the problem.",
}


def _bases(name: str) -> list[str]:
    return [each.__name__ for each in _classes(name)[1:]]


def _needed(name: str, is_required: bool, schema: Mapping[str, Any]) -> str:
    if not name.endswith("Request") or name == "LimitsRequest":
        return ""  # an answer has all of its members
    return "required" if is_required else _default(schema)


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default in (None, "", [], {}) or (isinstance(default, Mapping)):
        return ""
    return code("true" if default is True else "false" if default is False else str(default))


def _about(schema: Mapping[str, Any]) -> str:
    return str(schema.get("description", ""))


@cache
def _classes(name: str) -> list[type]:
    """Return the class of a schema and those that it extends, as far as they have a source here."""
    kind = getattr(schemas, name, None)
    return [each for each in kind.__mro__ if each.__module__ == schemas.__name__] if kind is not None else []


def type_of(schema: Mapping[str, Any]) -> str:
    """Return what a schema takes, in a few words, with links to other schemas."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{slug(name)})"
    forms = [each for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())) if each.get("type") != "null"]
    is_nullable = len(forms) < len(schema.get("anyOf", ()))
    if forms:
        return " or ".join((*map(type_of, forms), *(["null"] if is_nullable else [])))
    if "enum" in schema or "const" in schema:
        return ", ".join(code(each) for each in schema.get("enum", (schema.get("const"),)))
    if schema.get("type") == "array":
        return f"array of {type_of(schema['items']) or 'any'}"
    kind = str(schema.get("type", ""))
    values = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
    if kind == "object" and isinstance(values, Mapping):
        return f"object of {type_of(values) or 'any'}"
    return f"{kind}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = (("exclusiveMinimum", "> {}"), ("minimum", "≥ {}"), ("maximum", "≤ {}"), ("maxLength", "≤ {} characters"))
    found = [sign.format(_number(schema[name])) for name, sign in signs if name in schema and _is_telling(schema[name])]
    return f" {', '.join(found)}" if found else ""


def _is_telling(bound: float) -> bool:
    """Leave out bounds that only keep numbers exact."""
    return abs(bound) < 1e9


def _number(value: float) -> str:
    return f"{value:g}"


INTRO = """
JSON over HTTP/1.1, at `http://127.0.0.1:7833` by default. A running server describes itself at `/openapi.json`. A
member that a request's schema does not have is refused, never ignored.

**Keys.** A server with API keys requires `Authorization: Bearer KEY`. A key has a role, and each route needs one:
`operate` may do what `submit` may, and that what `read` may. Routes marked "open" need no key. A stream can also be
opened by the ticket in its `stream_url`. To a key with the visibility `own` the jobs of others are unknown, and what is
about all jobs is forbidden: metrics, drain, shutdown, the kill of a worker.

**Waiting.** `Prefer: wait=N` holds an answer up to `N` seconds, 60 at most; the header `Preference-Applied` says what
was done.

**Problems.** An error is `application/problem+json` ([`Problem`](#problem)). Programs look at its `code`; [Error
codes](codes.md) has all. Every route can answer 401 `unauthorized`, 403 `forbidden`, 421 `misdirected`, 500
`internal`, 503 `busy` and 503 `too_many_connections`. 429 and 503 have the header `Retry-After`. The tables below list
what a route answers besides.

**Streams** are server-sent events: see [Events](events.md).
"""
SCHEMAS = """
An answer always has every member of its schema; `null` stands for no value. A request may leave out every member that
is not marked as required.
"""


def _check() -> None:
    """The intro types in what the code has: both must agree."""
    from killable.api.http.statuses import STATUSES

    for name in COMMON:
        assert f"{STATUSES[name]} `{name}`" in " ".join(INTRO.split()), name


_check()
