"""The asynchronous client against a server with API keys."""

from __future__ import annotations

import pytest
from api_server import StartServer

from killable import AsyncClient, Refused
from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings

SUBMIT, OPERATE = "submitting-" + "k" * 16, "operating-" + "k" * 16
KEYS = (ApiKey("team", "submit", SUBMIT), ApiKey("ops", "operate", OPERATE))


@pytest.mark.row("A25")
async def test_a_key_opens_what_its_role_may(start_server: StartServer) -> None:
    async with start_server(http=HttpSettings(keys=KEYS)) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with AsyncClient(url, api_key=SUBMIT) as client:
            async with client.submit("count", {"n": 2}) as job:
                assert [token async for token in job] == [" 0", " 1"]
            with pytest.raises(Refused) as forbidden:
                await client.drain()
            assert (forbidden.value.code, forbidden.value.status) == ("forbidden", 403)
        async with AsyncClient(url, api_key=OPERATE) as client:
            assert (await client.drained())["draining"] is False
        for key in (None, "someone-else's-key"):
            async with AsyncClient(url, api_key=key) as client:
                with pytest.raises(Refused) as unauthorized:
                    await client.submit("count", {"n": 2})
                assert (unauthorized.value.code, unauthorized.value.status) == ("unauthorized", 401)
                assert str(key) not in str(unauthorized.value)
                assert await client.ready()
