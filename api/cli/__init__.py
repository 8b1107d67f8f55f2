"""The command `killable`.

Runs in: any machine; `serve`, `demo` and `bench` on Linux.
"""

from __future__ import annotations

import gc
import sys

INTERRUPTED = 130
"""The exit code after Ctrl-C before Click is loaded."""


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from killable.api.cli import closed_streams

        closed_streams.replace(are_passed_on=verb != "run")  # a command of `run` has what it was given
    gc.disable()  # until the verb runs (`VerbCommand`): imports make no garbage, and take a tenth less time without
    if verb == "serve" and sys.platform == "linux":
        from killable.api.cli import interrupts

        interrupts.note_hang_ups()  # SIGHUP never ends a server: whoever asks one to reload may be this early
    if sys.argv[1:2] == ["run"]:
        try:
            from killable.api.cli.plain_run import run_plainly

            run_plainly(sys.argv[2:])  # returns if Click has to say something
        except KeyboardInterrupt:  # before the command ran; from then on it is the command's
            sys.exit(INTERRUPTED)
    from killable.api.cli.app import run_verb

    run_verb()
