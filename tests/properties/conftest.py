"""Hypothesis without deadlines: a busy machine is no failure. A failing example prints how to reproduce it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("killable", deadline=None, print_blob=True)
settings.load_profile("killable")
