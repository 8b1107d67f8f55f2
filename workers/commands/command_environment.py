"""The environment variables of a command: few of the worker's, and what its author gives it.

Runs in: worker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

from killable.workers.commands.command_spec import CommandSpec

ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ")
"""What a program needs of its surroundings, and no more: what a declaration gives it by default."""
KEPT = ("KILLABLE_INSTANCE", "KILLABLE_CORRELATION_ID", "TRACEPARENT", "TRACESTATE")
"""By the first one what it leaves is found if every process of the server is killed. The last two are its place in a
trace."""


def environment_of(spec: CommandSpec, tmp: object) -> Mapping[bytes, bytes]:
    """Return the environment. `tmp`: the folder of the job."""
    allowed = (*KEPT, *spec.environment)
    chosen = {name: value for name, value in os.environ.items() if any(fnmatchcase(name, each) for each in allowed)}
    chosen |= {"TMPDIR": str(tmp), **spec.env}
    return {os.fsencode(name): os.fsencode(value) for name, value in chosen.items()}
