"""Webhooks: how a job ended is sent to the address that its submission named, signed, until it is taken."""
