"""What the processes that check inputs run for an OpenAI request whose body is large: they read it.

Runs in: worker of the pool of a `CheckPool`. A body comes from a client, and may be anything.
"""

from __future__ import annotations

from typing import Any

from killable.api.http.request_faults import FAULTS_MAX
from killable.api.openai.parsing import parsed, read_parsed
from killable.api.openai.request_inputs import Accepting, BadRequest
from killable.workers.authoring.job_functions import job
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json

TOLD_BYTES_MAX = 64 << 10
"""Of a member that a response repeats: each of its events that has the response is written in the event loop."""


@job
def read_openai(kind: str, body: bytes, accepting: dict[str, list[Any]]) -> bytes:
    """Return a JSON object, and on a line each the inputs of the request's jobs. The object has what was `asked`
    without them; or why the body is `malformed`, or its `faults`.
    """
    try:
        asked = read_parsed(kind, parsed(body), {model: Accepting(*each) for model, each in accepting.items()})
        inputs = [dump_json(each) for each in asked.inputs]
    except BadRequest as error:
        return dump_json({"faults": error.faults[: FAULTS_MAX + 1]})
    except Refused as error:
        return dump_json({"malformed": error.message})
    except (ValueError, RecursionError):
        return dump_json({"malformed": "The body is nested too deeply, or has a number that is not finite"})
    rest = asked._asdict()
    del rest["inputs"]
    rest["told"] = {name: member for name, member in asked.told.items() if len(dump_json(member)) <= TOLD_BYTES_MAX}
    return b"\n".join([dump_json({"asked": rest}), *inputs])
