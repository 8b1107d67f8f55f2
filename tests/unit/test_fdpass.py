"""Control messages between processes of ours, one of which may have gone."""

from __future__ import annotations

from killable.workers import fdpass


def test_what_the_other_side_had_said_is_read_though_it_left_something_unread() -> None:
    """The kernel tells of that (ECONNRESET) before it gives what lies in the socket."""
    ours, theirs = fdpass.open_pair()
    with ours:
        fdpass.send(ours, {"to": "them"})
        fdpass.send(theirs, {"last": "word"})
        theirs.close()
        assert fdpass.receive(ours) == ({"last": "word"}, [])
        assert fdpass.receive(ours) is None
