"""Control messages between processes of ours, one of which may have gone."""

from __future__ import annotations

from killable.workers.protocol import fd_passing


def test_what_the_other_side_had_said_is_read_though_it_left_something_unread() -> None:
    """The kernel tells of that (ECONNRESET) before it gives what lies in the socket."""
    ours, theirs = fd_passing.open_pair()
    with ours:
        fd_passing.send(ours, {"to": "them"})
        fd_passing.send(theirs, {"last": "word"})
        theirs.close()
        assert fd_passing.receive(ours) == ({"last": "word"}, [])
        assert fd_passing.receive(ours) is None
