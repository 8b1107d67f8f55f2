"""The Python clients, one blocking and one on asyncio, and the code that they share.

Runs in: any machine (no supervisor, no Linux)."""
