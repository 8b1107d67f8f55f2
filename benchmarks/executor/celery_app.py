"""Celery's application: one task, which calls the pickled function it is given.

Runs in: a trial, and Celery's worker.
"""

from __future__ import annotations

import base64
import os
import pickle
from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from celery.signals import worker_process_init  # type: ignore[import-untyped]

from executor import tasks
from executor.peers import PRELOAD_VARIABLE, SOCKET_VARIABLE

_URL = f"redis+socket://{os.environ[SOCKET_VARIABLE]}"
app = Celery("bench", broker=_URL, backend=_URL)
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="call")  # type: ignore[untyped-decorator]
def call(pickled: str) -> Any:
    function, args = pickle.loads(base64.b64decode(pickled))
    return function(*args)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def preload(**_: Any) -> None:
    if PRELOAD_VARIABLE in os.environ:
        tasks.preload()
