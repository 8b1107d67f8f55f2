"""What the processes of a pool get of the server's environment."""

from __future__ import annotations

import pytest

from killable.supervisor.linux.inherited_environment import inherited, withheld

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "a", "HF_TOKEN": "b", "OPENAI_API_KEY": "c", "PGPASSWORD": "d", "SSH_AUTH_SOCK": "e",
    "SENTRY_DSN": "f", "DATABASE_URL": "postgres://me:word@host/db", "GOOGLE_APPLICATION_CREDENTIALS": "g",
}  # fmt: skip
OTHERS = {
    "PATH": "/bin", "HOME": "/root", "LANG": "C", "PWD": "/", "TOKENIZERS_PARALLELISM": "true",
    "HTTP_PROXY": "http://p:3", "PYTHONPATH": "x", "KEYBOARD": "de", "MONKEY": "1",
}  # fmt: skip


def test_by_default_all_but_what_looks_like_a_secret() -> None:
    assert inherited(SECRETS | OTHERS, ("*",)) == OTHERS
    assert withheld(SECRETS | OTHERS, ("*",)) == sorted(SECRETS)


def test_an_executor_inherits_everything() -> None:
    assert inherited(SECRETS | OTHERS, None) == SECRETS | OTHERS and withheld(SECRETS, None) == []


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        (("PATH", "HF_TOKEN"), {"PATH", "HF_TOKEN"}),
        (("*", "HF_TOKEN"), {*OTHERS, "HF_TOKEN"}),
        (("H*",), {"HOME", "HTTP_PROXY"}),
        ((), set()),
    ],
)
def test_a_secret_has_to_be_named(allowed: tuple[str, ...], names: set[str]) -> None:
    assert set(inherited(SECRETS | OTHERS, allowed)) == names
