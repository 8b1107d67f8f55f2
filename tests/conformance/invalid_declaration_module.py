"""A module with a job whose declaration is invalid.

Runs in: zygote.
"""

from __future__ import annotations

from killable import Context, job


@job  # type: ignore[arg-type]
async def waits_in_a_loop(ctx: Context) -> None: ...
