"""What a task sends to its worker: the pickled call, with what it needs of the program's `__main__` or without.

Runs in: any thread of the program, that of the supervisor included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from killable.supervisor.executor import large_globals
from killable.supervisor.executor.repeated_content import RepeatedContent, TaskContent
from killable.workers.protocol import pickling
from killable.workers.protocol.call_message import HEAD_BYTES_MAX, LINE_BYTES_MAX
from killable.workers.protocol.frames import FRAME_BYTES_MAX
from killable.workers.protocol.message_bounds import INLINE_BYTES_MAX, SHARED_PARTS_MAX
from killable.workers.protocol.pickling import Pickled
from killable.workers.protocol.shared_memory import SealedInput, SharedPart, SharedParts

if TYPE_CHECKING:
    from killable.workers.protocol.definitions import Needed

INLINE_TASK_BYTES_MAX = LINE_BYTES_MAX - HEAD_BYTES_MAX
"""A task of up to this size goes through the worker's line; a larger one into a memory file."""
TASK_BYTES_MAX = FRAME_BYTES_MAX - 4096
"""The largest task that is sent as an order if there is no memory file for it."""


class DefinedCall:
    """A small call of a function of `__main__`. Its definitions are put before it only for a worker that has them not:
    most workers have run a call of the same function before.
    """

    __slots__ = ("_alone", "_definitions", "_elsewhere")

    def __init__(self, alone: bytes, definitions: bytes, elsewhere: Sequence[SharedPart]) -> None:
        self._alone, self._definitions, self._elsewhere = alone, definitions, elsewhere

    def alone(self) -> bytes:
        return pickling.without_definitions(self._alone)

    def with_definitions(self) -> bytes:
        return pickling.with_definitions(self._definitions, self._alone, self._elsewhere)


TaskInput = tuple[bytes | SealedInput | DefinedCall, SharedParts | None, "Needed | None"]
"""What a task sends, the parts of it that other tasks send too, and what stands for its definitions, if it brings any.
(A plain tuple: one is made for each task.)
"""


def packed(repeated: RepeatedContent, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskInput:
    """Pickle a call, its large pieces into shared memory. Raise any exception of pickling."""
    small = pickling.small_call(function, args, kwargs)
    if small is not None and len(small) <= INLINE_BYTES_MAX:
        return small, None, None
    content = TaskContent(repeated)
    found = pickling.pickled({"function": function, "args": args, "kwargs": kwargs}, identify=content.identify)
    brought = found.content_bytes
    task = _defined_call(found, content)
    if task is None:
        shared = content.share(found) if brought > INLINE_BYTES_MAX else None
        task = _inline_or_sealed(found), shared, found.definitions
    if brought > INLINE_BYTES_MAX and not (found.alone and found.definitions is repeated.looked_at):
        repeated.looked_at = found.definitions if found.alone else None
        large_globals.warn(brought, function, args, kwargs)
    return task


def _defined_call(found: Pickled, content: TaskContent) -> TaskInput | None:
    """Return a call whose definitions may be left out; None: it is another one, or too large."""
    definitions = found.definitions
    together = b"" if definitions is None else definitions.together
    if not (found.alone and together) or len(together) + len(found.alone) > INLINE_TASK_BYTES_MAX:
        return None
    copies = content.copies_of(found.buffers)
    if copies is None or len(copies) > SHARED_PARTS_MAX:
        return None
    call = DefinedCall(found.alone, together, copies)
    return call, SharedParts(copies) if copies else None, definitions


def _inline_or_sealed(packed: Pickled) -> bytes | SealedInput:
    if packed.size > INLINE_TASK_BYTES_MAX:
        try:
            return SealedInput.laid(packed.lay, may_wait=packed.size <= TASK_BYTES_MAX)
        except OSError:  # no memory or no descriptor for a memory file: it waits as it is, and is sent as an order
            if packed.size > TASK_BYTES_MAX:
                raise
    return packed.to_bytes()
