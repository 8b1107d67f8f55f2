"""The file of the secrets by which webhooks are signed, and of the addresses of tenants.

Runs in: api, and the command.

    # TENANT SECRET..., and url= where its jobs go that name no callback_url. * is every tenant without a line.
    *         whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
    dashboard whsec_new… whsec_old… url=https://example.com/hook

A tenant is the name of an API key. Each secret signs, so that receivers can be given a new one before the old one goes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from killable.api.http.key_file import CONFIGURATION, NAME
from killable.api.webhooks.callback_address import Network, fault_of
from killable.api.webhooks.signature import PREFIX, secret_of
from killable.workers.errors import KillableError
from killable.workers.named_tuples import NamedTuple

EVERYONE = "*"
SECRETS_MAX = 4
FILE_BYTES_MAX = 1 << 20


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
        # A FIFO without a writer would block here, and with it the server.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _invalid(path, ["it is not a regular file"])
            if found.st_mode & 0o077 or found.st_uid not in (os.geteuid(), 0):
                owner = f"it belongs to user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
                raise _invalid(path, [f"{owner}; only its owner may read it: chmod 600 {path}"])
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _invalid(path, [f"it cannot be read: {(error.strerror or str(error)).lower()}"]) from error
    if len(content) > FILE_BYTES_MAX or not content.isascii():
        raise _invalid(path, [f"it is longer than {FILE_BYTES_MAX} bytes, or not ASCII"])
    return content.decode("ascii").splitlines()


def _invalid(path: str, faults: list[str]) -> SecretsInvalid:
    first, *others = faults
    more = f" (and {len(others)} more: {'; '.join(others)})" if others else ""
    return SecretsInvalid(f"webhook secrets in {Path(path)}: {first}{more}", faults=faults)
