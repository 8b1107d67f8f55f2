"""The audit log of a `serve`: opened before anything is started, closed when all has ended.

Runs in: supervisor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from killable.api.cli.server.listener import CannotServe
from killable.api.http.audit_log import AuditLog
from killable.supervisor.http_server_settings import ServerSettings


@contextlib.contextmanager
def audit_log_of(server: ServerSettings) -> Iterator[AuditLog | None]:
    """Give the audit log, or None if there is to be none. Raise CannotServe."""
    if not server.audit_log:
        yield None
        return
    try:
        log = AuditLog(server.audit_log)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CannotServe(f"the audit log {server.audit_log} cannot be opened: {why} (server.audit_log)") from error
    try:
        log.write("started", pid=os.getpid())
        yield log
        log.write("ended", pid=os.getpid())
    finally:
        log.close()
