"""The job types that come with killable. They do real work and are examples to copy, except `probe`, which `doctor`
runs. Of this project they import only `killable`.

Runs in: zygote, worker.

Copy them under other names: a `tokenize.py` early on sys.path hides the standard library's.
"""
