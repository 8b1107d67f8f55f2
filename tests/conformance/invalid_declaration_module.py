"""A module whose job cannot be what it is declared as.

Runs in: zygote.
"""

from __future__ import annotations

from killable import Context, job


@job  # type: ignore[arg-type]
async def waits_in_a_loop(ctx: Context) -> None: ...
