"""Turns `killable.toml`, the environment and the flags into checked settings."""
