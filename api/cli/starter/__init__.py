"""The starter project of `killable new`: its files are in `files/`, with the marks that `write_project` fills in."""
