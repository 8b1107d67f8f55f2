"""What the processes that check inputs run for an OpenAI request whose body is large: they read it.

Runs in: worker of the pool of a `CheckPool`. A body comes from a client, and may be anything.
"""

from __future__ import annotations

from typing import Any

from killable.api.http.request_faults import FAULTS_MAX
from killable.api.openai.bad_request import BadRequest
from killable.api.openai.parsing import NO_JSON, parsed, read_parsed
from killable.api.openai.request_inputs import Accepting
from killable.workers.authoring.job_functions import job
from killable.workers.errors import Refused
from killable.workers.protocol.messages import dump_json


@job
def read_openai(kind: str, body: bytes, accepting: dict[str, list[Any]]) -> bytes:
    """Return a JSON object, and on a line each what its answer repeats and the inputs of its jobs. The object has what
    was `asked` without them; or it stands alone, and says why the body is `malformed`, or its `faults`.
    """
    try:
        asked = read_parsed(kind, parsed(body), {model: Accepting(*each) for model, each in accepting.items()})
        inputs = [dump_json(each) for each in asked.inputs]
    except BadRequest as error:
        return dump_json({"faults": error.faults[: FAULTS_MAX + 1]})
    except Refused as error:
        return dump_json({"malformed": error.message})
    except (ValueError, RecursionError):
        return dump_json({"malformed": NO_JSON})
    rest = asked._asdict()
    del rest["inputs"], rest["told"]
    return b"\n".join([dump_json({"asked": rest}), asked.told, *inputs])
