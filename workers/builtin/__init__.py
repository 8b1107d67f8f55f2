"""Job types that come with killable: real work, and examples to copy, but for `probe`, which `doctor` runs. They import
nothing of killable but `killable`.

Runs in: zygote, worker.

Copy them under other names: a `tokenize.py` that is first on sys.path hides the standard library's.
"""
