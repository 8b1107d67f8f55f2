"""`python -m killable.api.cli`: the command, run by exactly this interpreter.

Runs in: any machine.
"""

from killable.api.cli import main

main()
