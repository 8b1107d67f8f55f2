"""The Python clients: one blocking, one on asyncio, and what the two share.

Runs in: any machine (no supervisor, no Linux)."""
