"""The page of a server, for who runs it: a bundle that a browser loads from `/`, and what serves it."""
