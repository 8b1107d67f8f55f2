"""The jobs that the tests of the page look at."""

HOSTILE = "<img src=x onerror=alert(1)>\x1b]0;owned\x07\u202egnp.exe\u2066<script>alert(2)</script>&amp;"
"""HTML, an order to a terminal, text that turns the rest around."""

JOBS = f"""
import os
import signal
import time

from killable import Context, job

HOSTILE = {HOSTILE!r}


@job
def waits(s: float = 600.0):
    time.sleep(s)


@job
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield "deaf now"
    while True:
        time.sleep(1)


@job
def fails(what: str = "no such model"):
    raise ValueError(what)


@job
def writes(tokens: int, every_s: float = 0.0):
    print("it begins", flush=True)
    for number in range(tokens):
        yield f"word-{{number}} " if number % 20 else f"word-{{number}}\\n"
        if every_s:
            time.sleep(every_s)
    return {{"words": tokens}}


@job
def writes_one_line(pieces: list[str], go_on: str):
    # The first piece at once, the others when there is a file `go_on`.
    yield pieces[0]
    while not os.path.exists(go_on):
        time.sleep(0.01)
    yield from pieces[1:]


@job
def counts(ctx: Context):
    ctx.progress(30, 120, "pages")
    yield "thirty"
    time.sleep(600)


@job
def hostile():
    print(HOSTILE, flush=True)
    yield HOSTILE
    raise RuntimeError(HOSTILE)
"""
