"""No deadlines: a machine that is busy is no failure. A failing example prints what reproduces it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("killable", deadline=None, print_blob=True)
settings.load_profile("killable")
