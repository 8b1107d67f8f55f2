"""What a record shows of a job's input: nothing, unless the operator wants it, and then to the keys that he names."""

from __future__ import annotations

from dataclasses import replace

from api_server import OwnServer, StartServer
from support.looped_cases import cases

from killable.api.explanation import story
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.supervisor.http_server_settings import ServerSettings

READ, SUBMIT, OPERATE = (ApiKey(role, role, f"{role}-0123456789") for role in ("read", "submit", "operate"))
MINE = ApiKey("mine", "submit", "mine-01234567890", visibility="own")
HTTP = HttpSettings(keys=(READ, SUBMIT, OPERATE, MINE), failed_key_delay_s=0)
LARGE = {"text": "é" * 2_000_000}
"""One that waits in a memory file."""


async def shown(server: OwnServer, key: ApiKey, submitter: ApiKey, members: dict[str, str]) -> object:
    """Return what a key is shown of the input of a job that has ended, by its record; the story agrees."""
    content = {"type": "echo", "input": members}
    answer = await server.client.post("/v1/jobs", json=content, headers={"authorization": f"Bearer {submitter.key}"})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    await server.supervisor.wait(job_id)
    headers = {"authorization": f"Bearer {key.key}"}
    record = (await server.client.get(f"/v1/jobs/{job_id}", headers=headers)).json()
    told = (await server.client.get(f"/v1/jobs/{job_id}/story", headers=headers)).json()
    assert (record.get("input") is not None) == any(each["title"] == "input" for each in told["paragraphs"])
    listed = (await server.client.get("/v1/jobs", headers=headers)).text
    events = (await server.client.get(f"/v1/jobs/{job_id}/stream", headers=headers)).text
    assert "is_cut" not in listed + events
    return record.get("input")


async def test_nothing_is_shown_by_default(start_server: StartServer) -> None:
    async with start_server(http=HTTP, workers=1) as server:
        assert await shown(server, OPERATE, SUBMIT, {"text": "mine"}) is None


@cases(("allowed", "sees"), [("operate", {OPERATE}), ("submit", {OPERATE, SUBMIT}), ("read", {OPERATE, SUBMIT, READ})])
async def test_keys_of_the_role_see_the_beginning(start_server: StartServer, allowed: str, sees: set[ApiKey]) -> None:
    http = replace(HTTP, inputs_shown_to=allowed)
    async with start_server(http=http, workers=1, keep_input_bytes=20) as server:
        for key in (READ, SUBMIT, OPERATE):
            found = await shown(server, key, SUBMIT, {"text": "mine"})
            assert found == ({"text": '{"text":"mine"}', "bytes": 15, "is_cut": False} if key in sees else None), key


async def test_of_a_large_one_the_beginning_is_kept(start_server: StartServer) -> None:
    http = replace(HTTP, inputs_shown_to="submit", body_bytes_max=8 << 20, input_check_s=60)
    async with start_server(http=http, workers=1, keep_input_bytes=12) as server:
        found = await shown(server, MINE, MINE, LARGE)
        # As it was checked: in ASCII.
        assert found == {"text": r'{"text":"\u0', "bytes": 12_000_011, "is_cut": True}


def test_with_a_redacted_log_nobody_sees_any() -> None:
    assert HttpSettings.of(ServerSettings(redact=True), ()).hides_inputs
    assert not HttpSettings.of(ServerSettings(), ()).hides_inputs


def test_the_story_has_a_few_lines_of_it() -> None:
    record = {
        "job_id": "job-1", "type": "echo", "state": "queued", "created_at": "2026-01-01T00:00:00.000Z", "limits": {},
        "tags": {}, "attempt": 1, "attempts": 0, "tenant": "default",
        "input": {"text": "x" * 5000, "bytes": 5000, "is_cut": False},
    }  # fmt: skip
    paragraph = story.tell(record).paragraphs[1]
    assert (paragraph.title, len(paragraph.lines)) == ("Input", story.INPUT_LINES)
    assert "of which this is the beginning" in paragraph.text
    record["input"] = {"text": r'{"a":"\u00e9"}', "bytes": 14, "is_cut": False}
    assert story.tell(record).paragraphs[1].lines == ('{"a": "é"}',)
