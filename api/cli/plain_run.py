"""`killable run` without Click, whose import takes longer than a short command: for arguments that are plainly right.

Runs in: any machine; runs commands on Linux.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from killable.api.cli.parameters.run_arguments import read_arguments


def run_plainly(arguments: Sequence[str]) -> None:
    """Run the command and exit with its code. Return if Click has to read the arguments: it says what is wrong."""
    if sys.platform != "linux" or "_KILLABLE_COMPLETE" in os.environ:
        return
    asked = read_arguments(arguments)
    if asked is None:
        return
    from killable.api.cli.running_command import ReportNotWritable, run_and_tell, signal_number

    number = signal_number(asked.signal)
    if number is None:
        return
    gc.enable()
    try:
        code = run_and_tell(asked, number)
    except ReportNotWritable:
        return
    sys.exit(code)
