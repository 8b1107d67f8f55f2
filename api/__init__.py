"""The HTTP side of killable: routes, server-sent events, problems, client and command."""
