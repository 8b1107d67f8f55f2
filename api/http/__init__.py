"""The ASGI application: routes, server-sent events, problems, access."""
