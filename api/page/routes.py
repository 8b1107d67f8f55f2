"""Routes of the page: three files, which anyone may load. What it shows it asks of the API, with the user's key.

Runs in: api. `make page` builds the files from `source/`; a browser gets nothing from anywhere else.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from killable.workers.named_tuples import NamedTuple

PAGE_PATH = "/"
SCRIPT_PATH = "/page/app.js"
STYLE_PATH = "/page/app.css"
_FILES = {
    PAGE_PATH: ("index.html", "text/html; charset=utf-8"),
    SCRIPT_PATH: ("app.js", "text/javascript; charset=utf-8"),
    STYLE_PATH: ("app.css", "text/css; charset=utf-8"),
}
PAGE_PATHS = tuple(_FILES)

CONTENT_SECURITY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"),
    )
)
"""A job's output is text whatever it has in it; if that fails once, the browser runs none of it."""
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}
FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))")


class _File(NamedTuple):
    content: bytes
    compressed: bytes
    digest: str
    media_type: str


@functools.cache
def _file(path: str) -> _File:
    """Return a file of the bundle; read once, when the first browser asks."""
    name, media_type = _FILES[path]
    content = files(__package__).joinpath("bundle", name).read_bytes()
    return _File(content, gzip.compress(content, mtime=0), hashlib.sha256(content).hexdigest(), media_type)


async def _serve(request: Request) -> Response:
    """Answer with one file; 304 to a browser that has it. An address with its digest never changes."""
    found = _file(request.url.path)
    is_named = request.query_params.get("v") == found.digest[:16]
    packed = _GZIP.search(request.headers.get("accept-encoding", "")) is not None
    # Two forms have two tags: RFC 9110 section 8.8.3.3.
    tag = f'"{found.digest[:32]}{"-gzip" if packed else ""}"'
    headers = {**_HEADERS, "ETag": tag, "Cache-Control": FOR_EVER if is_named else ASK_AGAIN}
    asked = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if tag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(found.compressed if packed else found.content, media_type=found.media_type, headers=headers)


ROUTES = tuple(Route(path, _serve, methods=["GET"], include_in_schema=False) for path in PAGE_PATHS)
