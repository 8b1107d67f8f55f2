"""The server's own process: configuration, socket, HTTP server, announcement, signals."""
