"""`killable result`: print what a job returned.

Runs in: any machine.
"""

from __future__ import annotations

import base64

from killable.api.cli.display import console, errors
from killable.api.cli.display.live_output import print_value
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_lookup import find_job


def result(name: str, wait: float, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        value = find_job(client, name).result(wait_s=wait)
        if not as_json:
            print_value(value)
        elif isinstance(value, bytes):
            console.print_json({"base64": base64.b64encode(value).decode()})
        else:
            console.print_json(value)
