"""`python -m killable.api.cli`: the command with exactly this interpreter.

Runs in: any machine.
"""

from killable.api.cli import main

main()
