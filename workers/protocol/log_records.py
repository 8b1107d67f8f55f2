"""Log records and warnings of an Executor's tasks, on their way to the program.

Runs in: worker (encodes) | supervisor (decodes, in the relay's thread).

A record is sent as `logging.handlers.QueueHandler` prepares it: the message is formatted, and the traceback is text. So
arguments that cannot be pickled do no harm. Members that the task has added (`extra=`) go as they are if they can be
pickled, else as their repr.
"""

from __future__ import annotations

import builtins
import pickle
from functools import cache
from typing import TYPE_CHECKING, Any

from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    import logging

TEXT_CHARS_MAX = 256 << 10
"""The most characters of a message, a traceback or a stack; the rest is cut off."""
MEMBER_BYTES_MAX = 64 << 10
"""The most bytes of an added member."""


class Warned(NamedTuple):
    """A warning, as `warnings.warn_explicit` takes it."""

    message: Warning
    filename: str
    lineno: int
    module: str | None
    """The module that is warned about; None if it was not found on the stack."""


@cache
def _standard() -> frozenset[str]:
    """Return the names of the members that every record has."""
    import logging  # here: who has a record has imported it

    return frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def encode_record(record: logging.LogRecord) -> bytes:
    """Encode a record. Raise any exception of the arguments' `__str__`."""
    import logging

    members = {name: value for name, value in record.__dict__.items() if name in _standard()}
    members["msg"], members["args"] = _cut(record.getMessage()), None
    if record.exc_info and not record.exc_text:
        members["exc_text"] = logging.Formatter().formatException(record.exc_info)
    members["exc_info"] = None
    for name in ("exc_text", "stack_info"):
        if members.get(name):
            members[name] = _cut(str(members[name]))
    added = {name: _pickled(value) for name, value in record.__dict__.items() if name not in _standard()}
    return pickle.dumps((members, added))


def decode_record(payload: bytes) -> logging.LogRecord:
    """Raise any exception of unpickling: a task can write frames of its own."""
    import logging

    members, added = pickle.loads(payload)
    for name, value in added.items():
        members[name] = _unpickled(value)
    return logging.makeLogRecord(members)


def encode_warning(message: Warning, filename: str, lineno: int, module: str | None) -> bytes:
    """Encode a warning. One that cannot be pickled is sent as the nearest class above it that can."""
    kinds = [(kind.__module__, kind.__qualname__) for kind in type(message).__mro__ if issubclass(kind, Warning)]
    pickled = _pickled(message)
    return pickle.dumps((pickled if isinstance(pickled, bytes) else b"", kinds, str(message), filename, lineno, module))


def decode_warning(payload: bytes) -> Warned:
    """Raise any exception of unpickling, as `decode_record` does."""
    pickled, kinds, text, filename, lineno, module = pickle.loads(payload)
    message = _unpickled(pickled) if pickled else None
    if not isinstance(message, Warning):
        message = next(kind for name in kinds if (kind := _builtin_kind(*name)) is not None)(text)
    return Warned(message, filename, lineno, module)


def _builtin_kind(module: str, name: str) -> type[Warning] | None:
    found = getattr(builtins, name, None) if module == "builtins" else None
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}... {len(text)} characters"


def _pickled(value: object) -> bytes | str:
    """Return the pickle of a value, or its repr if it has none, or a large one."""
    try:
        pickled = pickle.dumps(value)
    except Exception:
        pickled = b""
    return pickled if 0 < len(pickled) <= MEMBER_BYTES_MAX else repr(value)[:1000]


def _unpickled(value: bytes | str) -> Any:
    if isinstance(value, str):
        return value
    try:
        return pickle.loads(value)
    except Exception as error:
        return f"<cannot be unpickled here: {type(error).__name__}: {error}>"
