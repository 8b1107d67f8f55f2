"""The page's files over HTTP, and the routes that it is the first to ask: a job's story, who is signed in."""

from __future__ import annotations

import gzip
import re

from api_server import Server, StartServer, problem_of

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings

KEYS = (
    ApiKey("looks", "read", "read-0123456789abcdef"),
    ApiKey("oncall", "operate", "operate-0123456789abcdef", visibility="own"),
)


async def test_the_page_is_of_this_server_only(server: Server) -> None:
    page = await server.client.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.split(" ", 1) for each in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"https?://(?!www\.w3\.org)", page.text) and "<style" not in page.text
    scripts = re.findall(r'<script[^>]*src="([^"]+)"[^>]*></script>', page.text)
    styles = re.findall(r'<link rel="stylesheet" href="([^"]+)">', page.text)
    assert len(scripts) == len(styles) == 1 == page.text.count("<script")
    for address, kind in ((scripts[0], "text/javascript"), (styles[0], "text/css")):
        answer = await server.client.get(address)
        assert answer.status_code == 200 and answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert (await server.client.get(address.split("?")[0])).headers["cache-control"] == "no-cache"
        assert (await server.client.get(f"{address}0")).headers["cache-control"] == "no-cache"


async def test_a_browser_that_has_it_gets_it_no_second_time(server: Server) -> None:
    for path in ("/", "/page/app.js", "/page/app.css"):
        plain = await server.client.get(path, headers={"accept-encoding": "identity"})
        packed = await server.client.get(path, headers={"accept-encoding": "br, gzip;q=0.5"})
        assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content and plain.headers["etag"] != packed.headers["etag"]
        assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
        refused = await server.client.get(path, headers={"accept-encoding": "gzip;q=0"})
        assert "content-encoding" not in refused.headers
        tag = plain.headers["etag"]
        for asked in (tag, f'"other", W/{tag}', "*"):
            again = await server.client.get(path, headers={"accept-encoding": "identity", "if-none-match": asked})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        head = await server.client.head(path, headers={"accept-encoding": "identity"})
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
        problem_of(await server.client.post(path), 405, "method_not_allowed")
    problem_of(await server.client.get("/page/digests.json"), 404, "not_found")


async def test_the_page_needs_no_key_and_says_who_asks(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(keys=KEYS), workers=1) as server:
        for path in ("/", "/page/app.js", "/page/app.css"):
            assert (await server.client.get(path)).status_code == 200
        problem_of(await server.client.get("/v1/info"), 401, "unauthorized")
        for key in KEYS:
            info = await server.client.get("/v1/info", headers={"authorization": f"Bearer {key.key}"})
            caller = {"name": key.name, "role": key.role, "visibility": key.visibility or "all"}
            assert info.json()["caller"] == caller


async def test_a_story_is_what_explain_tells(server: Server) -> None:
    job_id = await server.submit("say", values=["hello"])
    await server.record(job_id, wait_s=60)
    story = (await server.client.get(f"/v1/jobs/{job_id}/story")).json()
    assert story["job_id"] == job_id and story["state"] == "completed" and story["headline"].endswith("completed")
    assert [each["title"] for each in story["paragraphs"]][-1] == "change"
    assert any("hello" in line for each in story["paragraphs"] for line in each["lines"])
    problem_of(await server.client.get("/v1/jobs/job-0/story"), 404, "unknown_job")
    assert (await server.client.get("/v1/info")).json()["caller"] is None
