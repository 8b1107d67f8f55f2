"""The client of one command: its warnings are lines on stderr, and answers that are no server's are told as such.

Runs in: any machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from killable.api.client.client import Client


@contextmanager
def open_client(url: str) -> Iterator[Client]:
    """Yield a client. What it warns of is a line on stderr, and not a place in this program.

    Raise Unreachable for an answer that the body could not use.
    """
    from killable.api.cli.display import console
    from killable.api.cli.display.errors import odd_answer
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
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise odd_answer(client.address, error) from error
