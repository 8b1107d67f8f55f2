"""A key that would go to another machine unencrypted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from killable.api.client.async_client import AsyncClient
from killable.api.client.client import Client

AWAY = (
    "http://jobs.example:7833",
    "jobs.example",
    "http://127.0.0.1.example",
    "http://10.0.0.7",
    "http://user:secret@[2001:db8::1]:80",
)
HERE = (
    "http://127.9.9.9:1",
    "http://127.0.0.1:7833",
    "localhost:1",
    "http://[::1]:7833",
    "https://jobs.example",
    "unix:/run/k",
    None,
)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_key_that_leaves_this_machine_in_clear_text_is_warned_of(client: Callable[..., Any]) -> None:
    for url in AWAY:
        for given in ({"api_key": "k" * 16}, {"headers": {"authorization": "Bearer x"}}):
            with pytest.warns(UserWarning, match=r"the API key goes to http://.* unencrypted.*https://") as caught:
                client(url, **given)
            (warning,) = caught
            assert warning.filename == __file__, "whoever made the client"
            assert "k" * 16 not in str(warning.message) and "secret" not in str(warning.message)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_other_keys_and_none_are_not(client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in HERE:
            client(url, api_key="k" * 16)
        for url in AWAY:
            client(url)
    monkeypatch.setenv("KILLABLE_API_KEY", "k" * 16)
    with pytest.warns(UserWarning, match="unencrypted"):
        client(AWAY[0])
