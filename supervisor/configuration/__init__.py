"""`killable.toml`, the environment and the flags, into settings that are checked."""
