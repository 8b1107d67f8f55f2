"""The file of the secrets by which webhooks are signed, and of the addresses of tenants.

Runs in: api, and the command.

    # TENANT SECRET..., and url= where its jobs go that name no callback_url. * is every tenant without a line.
    *         whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
    dashboard whsec_new… whsec_old… url=https://example.com/hook

A tenant is the name of an API key. Each secret signs, so that receivers can be given a new one before the old one goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from killable.api.http.key_file import NAME
from killable.api.http.owner_only_file import CONFIGURATION, invalid, lines_of
from killable.api.webhooks.callback_address import Network, fault_of
from killable.api.webhooks.signature import PREFIX, secret_of
from killable.workers.errors import KillableError
from killable.workers.named_tuples import NamedTuple

EVERYONE = "*"
SECRETS_MAX = 4


class SecretsInvalid(KillableError):
    """The file cannot be used; the fact `faults` has one sentence for each fault. No message repeats a secret."""

    code = "configuration"
    exit_code = CONFIGURATION


class Sender(NamedTuple):
    """What is known of a tenant's webhooks."""

    secrets: tuple[bytes, ...]
    url: str = ""
    """Where jobs go that name no address; empty: nowhere."""


Senders = Mapping[str, Sender]
"""By tenant, and EVERYONE."""


def read_secrets(path: str, allowed: Sequence[Network]) -> Senders:
    """Return what a file has. Raise SecretsInvalid with every fault."""
    senders: dict[str, Sender] = {}
    faults: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, *rest = words
        try:
            if name != EVERYONE and not NAME.fullmatch(name):
                raise ValueError("has no name of a tenant")
            if name in senders:
                raise ValueError(f"repeats {name}")
            senders[name] = _sender_of(rest, allowed)
        except ValueError as error:
            faults.append(f"line {number} {error}")
    if not senders and not faults:
        faults.append(f"it has no secret; a line is TENANT {PREFIX}BASE64, and * is every tenant")
    if faults:
        raise _invalid(path, faults)
    return senders


def _sender_of(words: Sequence[str], allowed: Sequence[Network]) -> Sender:
    urls = [word.removeprefix("url=") for word in words if word.startswith("url=")]
    secrets = tuple(secret_of(word) for word in words if not word.startswith("url="))
    if not 1 <= len(secrets) <= SECRETS_MAX or len(urls) > 1:
        raise ValueError(f"has {len(secrets)} secrets and {len(urls)} addresses, expected 1 to {SECRETS_MAX}, and one")
    if urls and (fault := fault_of(urls[0], allowed)):
        raise ValueError(f"has an address that {fault}")
    return Sender(secrets, *urls)


def _lines(path: str) -> list[str]:
    try:
        return lines_of(path)
    except ValueError as error:
        raise _invalid(path, [str(error)]) from error


def _invalid(path: str, faults: list[str]) -> SecretsInvalid:
    return invalid(SecretsInvalid, "webhook secrets", path, faults)
