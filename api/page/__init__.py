"""The page of a server for its operators: a bundle that a browser loads from `/`, and the routes that serve it."""
