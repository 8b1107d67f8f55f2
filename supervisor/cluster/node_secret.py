"""How a head and a node host prove to each other that they know the host's secret, before anything else is said.

Runs in: supervisor. Pure but for chance.

    host  ─ nonce ───────────────────────────────────► head
    head  ─ its own nonce, HMAC(secret, of both) ────► host
    host  ─ HMAC(secret, of both, the other way) ────► head

The secret comes and goes through Ray, which has authenticated who asks. Nobody learns it from a connection, and what
was said on one proves nothing on another.
"""

from __future__ import annotations

import hmac
import secrets

NONCE_BYTES = 32
PROOF_BYTES_MAX = 1024
"""A longer message is none before both have proven who they are."""


def new_secret() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def _proof(secret: bytes, whose: bytes, host_nonce: bytes, head_nonce: bytes) -> bytes:
    return hmac.digest(secret, whose + host_nonce + head_nonce, "sha256")


class HeadsProof:
    """The head's side of one connection."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._hosts_nonce = b""

    def answer(self, blobs: list[bytes]) -> list[bytes]:
        """Return what is said to what the host has said; empty: it has proven itself. Raise ValueError: it has not."""
        (said,) = blobs
        if not self._hosts_nonce:
            if len(said) != NONCE_BYTES:
                raise ValueError("it is no node host")
            self._hosts_nonce = said
            return [self._nonce, _proof(self._secret, b"head", said, self._nonce)]
        if not hmac.compare_digest(said, _proof(self._secret, b"host", self._hosts_nonce, self._nonce)):
            raise ValueError("it does not know the secret")
        return []


class HostsProof:
    """The host's side of one connection."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.nonce = secrets.token_bytes(NONCE_BYTES)

    def answer(self, blobs: list[bytes]) -> bytes:
        """Return the host's proof to that of a head. Raise ValueError: it is none."""
        nonce, proof = blobs
        if len(nonce) != NONCE_BYTES or not hmac.compare_digest(
            proof, _proof(self._secret, b"head", self.nonce, nonce)
        ):
            raise ValueError("it does not know the secret")
        return _proof(self._secret, b"host", self.nonce, nonce)
