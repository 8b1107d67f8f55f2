"""The ASGI application: routes, server-sent events, problem documents and access checks."""
