"""Messages that are none any more: cut off, of other bytes, without a member, or with one of another type.

Runs in: the test process.
"""

from __future__ import annotations

import json
import random
from typing import Any

from killable.supervisor.cluster import messages

WRONG = (None, -1, True, [[]])
"""What no member of a message may be; but for some that may be None, as nobody has asked for a grace."""


def garble(dice: random.Random, packed: bytes) -> bytes:
    """Return the message changed, by the dice."""
    match dice.randrange(6):
        case 0:
            return packed[: dice.randrange(len(packed))]
        case 1:
            return dice.randbytes(dice.randrange(200))
        case 2:
            return json.dumps(dice.choice((*WRONG, "refused", {"blobs": [1 << 40]}))).encode() + b"\n"
    header, blobs = messages.unpack(packed)
    if blobs and dice.randrange(2):  # a batch in the answer to a poll, else data, of which no check knows anything
        try:
            messages.unpack(blobs[0])
        except ValueError:
            pass
        else:
            return messages.pack(header, [garble(dice, blobs[0])])
    _change(dice, header)
    return messages.pack(header, blobs)


def _change(dice: random.Random, value: Any) -> None:
    """Take a member away, or put something else into its place, at any depth."""
    if not value:
        return
    place = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if isinstance(value[place], (dict, list)) and value[place] and dice.randrange(3):
        _change(dice, value[place])
    elif isinstance(value, dict) and place != "refused" and dice.randrange(2):
        del value[place]  # without its refusal, or an element of a list, it could be a good message
    else:
        value[place] = dice.choice(WRONG)
