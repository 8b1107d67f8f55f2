"""`killable top`: the server now, in a terminal. Needs the extra `top` (Textual)."""
