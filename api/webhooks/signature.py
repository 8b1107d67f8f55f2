"""The signature of a webhook, by the specification Standard Webhooks (standardwebhooks.com).

Runs in: api. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
"""The sizes that the specification allows."""


def secret_of(text: str) -> bytes:
    """Return the bytes of `whsec_` and base64. Raise ValueError, without the text."""
    if not text.startswith(PREFIX):
        raise ValueError(f"has a secret that does not begin with {PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"has a secret that is not {PREFIX} and base64") from None
    if len(secret) not in SECRET_BYTES:
        allowed = f"{SECRET_BYTES.start} to {SECRET_BYTES.stop - 1}"
        raise ValueError(f"has a secret of {len(secret)} bytes, expected {allowed}")
    return secret


def signed_headers(message_id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> Mapping[str, str]:
    """Return the three headers. Each secret signs: while one replaces another, a receiver may have either."""
    signed = b"%b.%d.%b" % (message_id.encode("ascii"), timestamp, body)
    signatures = (base64.b64encode(hmac.new(secret, signed, sha256).digest()).decode() for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
