"""The client of one command: its warnings are lines on stderr, and answers that are no server's are told as such.

Runs in: any machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from killable.api.client.client import Client
    from killable.workers.errors import KillableError


@contextmanager
def open_client(url: str) -> Iterator[Client]:
    """Yield a client. What it warns of is a line on stderr, and not a place in this program.

    Raise Unreachable for an answer that the body could not use.
    """
    from killable.api.cli.display import console
    from killable.api.client.client import Client
    from killable.workers.errors import KillableError  # here: help does not need it

    with warnings.catch_warnings(record=True) as caught:
        client = Client(url)
    for warning in caught:
        console.stderr_console().print(f"warning: {warning.message}", style="yellow")
    with client:
        try:
            yield client
        except KillableError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise _odd_answer(client.address, error) from error


def _odd_answer(address: str, error: Exception) -> KillableError:
    """Return the error for an answer whose members are missing or of other types, by where that was noticed."""
    import traceback

    from killable.api.client.errors import Unreachable

    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__}: {error}, at {Path(at.filename).name}:{at.lineno}"
    return Unreachable(
        f"an answer of {address} does not have what one of a killable server of this version has ({where}): "
        "is it another server or version? If not, it is a fault of this command",
        url=address,
    )
