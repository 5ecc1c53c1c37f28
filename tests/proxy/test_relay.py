"""Relaying: every piece goes on as it came, and it is known afterwards how far it went."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from memproxy.errors import UpstreamBrokenError
from memproxy.proxy import relay as module
from memproxy.proxy.relay import Relayed, relay
from memproxy.records import Outcome


async def pieces(*chunks: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


class Sink:
    """A client that takes `room` pieces and then leaves."""

    def __init__(self, room: int = 1_000) -> None:
        self.room = room
        self.taken: list[bytes] = []

    async def write(self, chunk: bytes) -> None:
        if len(self.taken) == self.room:
            raise asyncio.CancelledError
        self.taken.append(chunk)


async def test_each_piece_is_passed_on_as_it_came() -> None:
    """Tokens appear in the agent when the model says them, in the same bytes."""
    sink, into = Sink(), Relayed()
    await relay(pieces(b"a", b"", b"bc", b"\xff"), sink.write, into)
    assert sink.taken == into.chunks == [b"a", b"", b"bc", b"\xff"]
    assert (into.size, into.outcome, into.error) == (4, Outcome.COMPLETED, "")
    assert into.first_byte_at_s is not None
    assert into.is_observed


async def test_an_answer_without_a_body_is_complete() -> None:
    """204 and 304 are answers."""
    into = Relayed()
    await relay(pieces(), Sink().write, into)
    assert (into.outcome, into.size, into.first_byte_at_s) == (Outcome.COMPLETED, 0, None)


async def test_a_model_server_that_breaks_off_is_no_error_of_the_relay() -> None:
    """What was said before the break has reached the client, and is kept as a broken answer."""
    sink, into = Sink(), Relayed()
    await relay(pieces(b"a", then=UpstreamBrokenError("gone")), sink.write, into)
    assert sink.taken == into.chunks == [b"a"]
    assert (into.outcome, into.error) == (Outcome.FAILED, "gone")


async def test_a_client_that_leaves_has_what_was_written_to_it() -> None:
    """Only what reached the user is remembered as said."""
    sink, into = Sink(room=2), Relayed()
    with pytest.raises(asyncio.CancelledError):
        await relay(pieces(b"a", b"b", b"c"), sink.write, into)
    assert into.chunks == [b"a", b"b"]
    assert (into.outcome, into.size) == (Outcome.ABORTED, 2)


async def test_what_nobody_reads_is_not_kept() -> None:
    """A download of gigabytes passes through without being collected."""
    sink, into = Sink(), Relayed(keeps=False)
    await relay(pieces(b"a", b"b"), sink.write, into)
    assert sink.taken == [b"a", b"b"]
    assert (into.chunks, into.size, into.is_observed) == ([], 2, False)


async def test_an_answer_beyond_the_limit_is_relayed_but_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory use has a bound, the answer has none."""
    monkeypatch.setattr(module, "OBSERVED_BYTES", 3)
    sink, into = Sink(), Relayed()
    await relay(pieces(b"ab", b"c", b"d", b"e"), sink.write, into)
    assert sink.taken == [b"ab", b"c", b"d", b"e"]
    assert (into.chunks, into.size, into.is_observed, into.outcome) == ([], 5, False, Outcome.COMPLETED)
