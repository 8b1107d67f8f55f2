"""What can be the name of a file, and its media type, in headers and on a disk.

Runs in: any. Pure.
"""

from __future__ import annotations

NAME_BYTES_MAX = 255
"""Of a name in UTF-8: what Linux's file systems take."""
CONTENT_TYPE_CHARS_MAX = 200


def name_fault(name: object) -> str:
    """Return why this cannot be the name of a file; empty: it can."""
    if not isinstance(name, str) or not name or name in (".", ".."):
        return "a file needs a name"
    shown = f"{name!r:.80}"
    if "/" in name or not name.isprintable():
        return f"{shown} cannot be the name of a file: it has a slash, or a character that cannot be printed"
    size = len(name.encode())
    return "" if size <= NAME_BYTES_MAX else f"{shown} has {size} bytes; the name of a file may have {NAME_BYTES_MAX}"


def content_type_fault(content_type: str) -> str:
    """Return why this is no media type that a header can have; empty: it is one, or there is none."""
    is_header = len(content_type) <= CONTENT_TYPE_CHARS_MAX and content_type.isascii() and content_type.isprintable()
    if is_header and (not content_type or "/" in content_type.partition(";")[0].strip("/")):
        return ""
    return f"{content_type!r:.80} is not a media type like image/png"
