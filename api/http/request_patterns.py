"""The patterns of ids, keys, tags and names in requests, and the message for one that does not match.

Runs in: api.
"""

from __future__ import annotations

from killable.supervisor.jobs.node_labels import CONDITION, EXPECTED
from killable.workers.authoring.identifiers import OPERATION_PATH

CORRELATION_ID = "^[A-Za-z0-9._:/+=-]{1,128}$"
IDEMPOTENCY_KEY = "^[!-~]{1,255}$"
"""Any spelling of an id, with or without the quotes of the IETF draft."""
NODE_NAME_MAX = 300
"""A host name has 253 characters at most."""
TAG_KEY = "^[A-Za-z0-9_./-]{1,64}$"
TAG = "^[^:]+:"
CODE = r"^[a-z_]+(\.[a-z_]+)*$"
CURSOR = "^[0-9]{1,18}$"
OPERATION = f"^{OPERATION_PATH}$"
PATTERNS = {
    CORRELATION_ID: "must be 1 to 128 of A-Z a-z 0-9 . _ : / + = -",
    IDEMPOTENCY_KEY: "must be 1 to 255 visible ASCII characters, without spaces",
    TAG_KEY: "must be named with 1 to 64 of A-Z a-z 0-9 _ . / -",
    TAG: "must be key:value",
    f"^{CONDITION.pattern}$": f"must be {EXPECTED}",
    CODE: "must be a code, as in docs/reference/codes.md, or what several begin with: `timeout`",
    CURSOR: "must be the next_cursor of the previous page",
    OPERATION: "must be named as in ctx.operation: 1 to 64 of A-Z a-z 0-9 _ . -, or a path of such names",
}
"""The message for a value that does not match a pattern."""
