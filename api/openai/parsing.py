"""Parses the body of an OpenAI request, and reads it.

Runs in: api, and in the processes that check inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from killable.api.openai.messages_request import read_messages
from killable.api.openai.request_inputs import Accepting, Asked, read
from killable.api.openai.responses_api_request import read_response
from killable.workers.errors import Refused

NO_JSON = "The body is nested too deeply, or has a number that is not finite"


def parsed(body: bytes) -> Any:
    """Return the body of a request. Raise Refused: malformed."""
    try:
        return json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise Refused(f"The body is not UTF-8 (byte {error.start})", code="malformed") from error
    except json.JSONDecodeError as error:
        raise Refused(f"The body is not JSON: {error.msg} (character {error.pos})", code="malformed") from error
    except (ValueError, RecursionError) as error:
        raise Refused("The body is nested too deeply, or has a number that is too long", code="malformed") from error


def read_parsed(kind: str, body: Any, accepting: Mapping[str, Accepting]) -> Asked:
    """Return the request. Raise BadRequest; Refused: malformed, for what a response would repeat and cannot."""
    match kind:
        case "responses":
            try:
                return read_response(body, accepting)
            except (ValueError, RecursionError) as error:
                raise Refused(NO_JSON, code="malformed") from error
        case "messages":
            return read_messages(body, accepting)
        case _:
            return read(kind, body, accepting)
