"""The messages between a head and its nodes: one line of JSON, then bytes.

Runs in: supervisor. Pure. Nothing is pickled. Every call may be lost, late, doubled or out of order:

    hello   the head begins to use a node, under its epoch. The answer: the node's incarnation, pools and job types,
            and what it holds of the attempts of an earlier head
    adopt   which of those the head goes on with; the node ends the others
    do      orders, each about one attempt: `part` of its input, `run`, `stop`. Sent until it is answered; the second
            time it changes nothing. Runs go together, a stop goes alone
    poll    the head asks for news. The answer has a batch, which is the same bytes until the next poll acknowledges it.
            It names the attempts whose ends the head has written down: until then the node can tell each again
    workers, kill_worker   the node's worker records; one of them is to be killed
    leave   the node is no longer needed: it ends everything, and itself

An attempt is named by `n`, which the head counts for each node, through all of its incarnations. A node runs each one
at most once, and none of those that the head had given out before its hello. Every call but a hello names the
incarnation that it is for.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from killable.workers.protocol.messages import dump_json, load_json

Header = dict[str, Any]

BATCH_BYTES_MAX = 88 << 10
"""Bytes of data in one message. Ray sends up to 100 KiB with the call itself; more takes ten times as long."""

PYTHON = ".".join(platform.python_version_tuple()[:2])
"""Head and nodes need the same: job types, and what a worker imports, depend on it."""

STALE_EPOCH = "stale_epoch"
"""Another head has begun to use the node since. The answer has its `epoch`."""
UNKNOWN_EPOCH = "unknown_epoch"
"""The node has heard no hello of this epoch, or the message was for an earlier incarnation of it."""
NOT_UNDERSTOOD = "not_understood"
"""The message is none that this node knows. The answer has a `detail`."""
NOT_SWEPT = "not_swept"
"""What the node's last incarnation ran may run on: it was on another machine, or something of it does not end."""
OLD_JOURNAL = "old_journal"
"""The head's journal is a copy: another head has used the node with this journal, and written more than is in it."""
LEASE_OVER = "lease_over"
"""The node has not heard from its head for too long: it ends everything and never works again."""


@cache
def installed_version() -> str:
    """Return the version of killable here. Cached: it is parsed from a file, a millisecond for each node that joins."""
    return metadata.version("killable")


def pack(header: Header, blobs: Sequence[bytes | memoryview] = ()) -> bytes:
    """Return a message as bytes."""
    return b"".join((head(header, blobs), *blobs))


def head(header: Header, blobs: Sequence[bytes | memoryview]) -> bytes:
    """Return what a message has before its blobs."""
    return dump_json({**header, "blobs": [len(blob) for blob in blobs]}) + b"\n"


def unpack(packed: bytes | bytearray, begin: int = 0, end: int | None = None) -> tuple[Header, list[bytes]]:
    """Return the header and the blobs of a message, which are copied once. Raise ValueError for anything else."""
    end = len(packed) if end is None else end
    view = memoryview(packed) if isinstance(packed, bytearray) else packed  # whose slices are copies
    place = packed.index(b"\n", begin, end) + 1
    try:
        header = load_json(bytes(view[begin : place - 1]))
    except RecursionError as error:
        raise ValueError("a message with too many levels") from error
    sizes = header.pop("blobs", None) if isinstance(header, dict) else None
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a message without a header")
    blobs = []
    for size in sizes:
        blobs.append(bytes(view[place : place + size]))
        place += size
    if place != end:
        raise ValueError(f"a message of {end - begin} bytes where {place - begin} were announced")
    return header, blobs


def refusal(why: str, **facts: Any) -> bytes:
    """Return the answer of a node that does not do what a message asks for."""
    return pack({"refused": why, **facts})


def pieces(data: bytes) -> list[bytes]:
    """Return the data in pieces that each fit into a message; at least one."""
    return [data[at : at + BATCH_BYTES_MAX] for at in range(0, len(data), BATCH_BYTES_MAX)] or [b""]
