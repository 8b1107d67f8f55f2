"""What the process has imported that the command is forked from (`forked_command.py`), before the first fork."""

from __future__ import annotations

import gc
import importlib
import pkgutil

import killable.api.cli

_LATE = [
    *["killable.api.app", "killable.supervisor.supervisor", "killable.supervisor.configuration.values_in_force"],
    *["killable.supervisor.telemetry.log_lines", "killable.supervisor.telemetry.metrics"],
    *["killable.supervisor.telemetry.loop_turns", "killable.supervisor.linux.adopted_zombies"],
    *["killable.supervisor.attempts.attempt", "killable.workers.runtime.sandbox"],
    *["killable.api.client.client", "httpx_sse", "httpcore", "h11", "uvicorn", "uvicorn.lifespan.off"],
    *["concurrent.futures.process", "encodings.idna", "encodings.unicode_escape"],
]
"""What it imports where it needs it."""

gc.disable()  # next to nothing of what follows is garbage
for _found in pkgutil.walk_packages(killable.api.cli.__path__, f"{killable.api.cli.__name__}."):
    if not _found.name.endswith("__main__"):
        importlib.import_module(_found.name)
for _name in [*_LATE, "support.forked_command"]:  # the last one: a fork that has it begins with the command
    importlib.import_module(_name)
gc.freeze()  # a collector that goes through it in a fork copies its pages
gc.enable()
