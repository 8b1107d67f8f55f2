"""The site: Sphinx, furo and MyST. `make docs` builds it, without a network, and every warning is an error."""

from importlib.metadata import version as version_of

project = "killable"
author = "the authors of killable"
release = version = version_of("killable")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

myst_heading_anchors = 4

html_theme = "furo"
html_title = "killable"
html_show_sourcelink = False
html_copy_source = False
pygments_style = "tango"
pygments_dark_style = "native"
