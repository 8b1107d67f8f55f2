"""A decorator that runs all cases of a test on the same fixtures.

Use it where a server for each case would cost more than the case itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Test = Callable[..., Awaitable[None]]


def cases(names: str | tuple[str, ...], values: Iterable[Any]) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize`, but one test that goes through the cases with the same fixtures.

    A failure has a note that says which case it was. No case may depend on what another one left.
    """
    given = list(values)

    def arguments(value: Any) -> dict[str, Any]:
        return {names: value} if isinstance(names, str) else dict(zip(names, value, strict=True))

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        async def all_of_them(**fixtures: Any) -> None:
            assert given
            for value in given:
                try:
                    await test(**fixtures, **arguments(value))
                except BaseException as error:
                    error.add_note(f"in the case {arguments(value)!r}")
                    raise

        wanted = inspect.signature(test)
        left = [parameter for name, parameter in wanted.parameters.items() if name not in arguments(given[0])]
        all_of_them.__signature__ = wanted.replace(parameters=left)  # type: ignore[attr-defined]
        return all_of_them

    return decorate
