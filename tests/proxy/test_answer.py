"""The answer loop: what a client gets is what it would have had without any stream, and nothing is lost on the way."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from memproxy.errors import StoreError, UpstreamBrokenError, UpstreamConnectError, UpstreamError
from memproxy.proxy import answer as module
from memproxy.proxy import splice
from memproxy.proxy.answer import Limits
from memproxy.proxy.upstream import UpstreamResponse
from memproxy.records import JsonObject, Outcome, ToolAnswer, ToolCall
from memproxy.wire import sse
from tests.fakes.dialects import (
    ARGUMENTS,
    Asked,
    Dialect,
    Said,
    StrictReader,
    conversations,
    cut,
    dialects,
    events,
    expected_view,
    is_answered,
    render,
    whole,
)
from tests.fakes.exchanges import EVENT_STREAM, JSON, Exchange, Look, answer_of, found
from tests.fakes.serving import Serve, Served

LOOK = Asked("call_0_0", "look_up", '{"q": "known"}')
UNKNOWN = Asked("call_0_1", "look_up", ARGUMENTS[-1])
CANCEL = Asked("call_0_2", "cancel")
BREAK = httpx.ReadError("the connection was reset")


def streams(rounds: Sequence[Said], dialect: Dialect | None = None) -> list[UpstreamResponse]:
    return [answer_of(render(said, dialect or Dialect(), number=number)) for number, said in enumerate(rounds)]


def wholes(rounds: Sequence[Said]) -> list[UpstreamResponse]:
    return [answer_of(whole(said, number=number), headers=[JSON]) for number, said in enumerate(rounds)]


def results(said: Said) -> list[JsonObject]:
    return [{"role": "tool", "tool_call_id": call.id, "content": found(call)} for call in said.calls]


def read(stream: bytes, dialect: Dialect | None = None) -> Any:
    return StrictReader(dialect or Dialect()).read(stream)


# What the client gets, compared with a loop that knows no streams.


@settings(deadline=None, max_examples=400)
@given(conversations, dialects, st.lists(st.integers(min_value=0), max_size=40), st.booleans())
async def test_a_streamed_answer_is_what_it_would_be_without_streaming(
    rounds: list[Said], dialect: Dialect, at: list[int], bytewise: bool
) -> None:
    """Whatever a server's dialect, and wherever the network cuts, the client sees one well-formed answer."""
    last = len(rounds) - 1
    expected, inside = expected_view(rounds, lambda number, said: number < last and is_answered(said))
    expected.done = dialect.done
    raw = [render(said, dialect, number=number) for number, said in enumerate(rounds)]
    pieces = [[bytes([byte]) for byte in one] if bytewise else cut(one, at) for one in raw]
    exchange = Exchange(*(answer_of(*each) for each in pieces), limits=Limits(rounds=last))
    body = await exchange.run()
    view = read(body, dialect)
    if dialect.usage == "every" and rounds[inside].usage is None:
        view.usage = None  # of the rounds before, as far as they were shown
    assert view == expected
    if not inside:
        assert body == raw[0]
    assert b"".join(exchange.into.chunks) == body
    assert_told(exchange, rounds, inside)


@settings(deadline=None, max_examples=200)
@given(conversations)
async def test_a_whole_answer_is_the_plain_loops(rounds: list[Said]) -> None:
    """Words joined and usage summed; byte for byte the model server's when nothing was answered."""
    last = len(rounds) - 1
    expected, inside = expected_view(rounds, lambda number, said: number < last and is_answered(said))
    exchange = Exchange(*wholes(rounds), limits=Limits(rounds=last))
    body = await exchange.run()
    value = json.loads(body)
    (choice,) = value["choices"]
    assert (choice["message"].get("content") or "") == expected.words
    assert choice["message"].get("tool_calls", []) == [call.whole for call in expected.calls]
    assert choice["finish_reason"] == expected.finish
    total = [said.usage for said in rounds[: inside + 1] if said.usage is not None]
    if rounds[inside].usage is not None or not total:
        assert value.get("usage") == expected.usage
    assert value["id"] == f"chatcmpl-{inside}"
    if not inside:
        assert body == whole(rounds[0])
    assert_told(exchange, rounds, inside)


def assert_told(exchange: Exchange, rounds: Sequence[Said], inside: int) -> None:
    """The model server was sent each answered round with its results; headers and records say the same."""
    hidden = [message for said in rounds[:inside] for message in (said.message, *results(said))]
    assert len(exchange.sent) == inside + 1
    assert [without_empty(message) for message in exchange.sent[-1]["messages"][1:]] == [
        without_empty(message) for message in hidden
    ]
    assert exchange.sent[-1]["x"] == 1.0
    assert exchange.done.rounds == inside
    assert [answer.call.id for answer in exchange.done.answers] == [
        call.id for said in rounds[:inside] for call in said.calls
    ]
    assert [without_empty(message) for message in exchange.done.hidden] == [
        without_empty(message) for message in hidden
    ]
    assert bool(exchange.done.instead) is bool(inside and exchange.done.last)
    assert exchange.is_ended
    assert exchange.into.outcome is Outcome.COMPLETED


def without_empty(message: JsonObject) -> JsonObject:
    """An empty text and none are the same."""
    return {name: value for name, value in message.items() if value not in (None, "")}


# Nothing waits that need not wait.


@settings(deadline=None, max_examples=60)
@given(st.text("ab é\n", min_size=1, max_size=9), dialects, st.booleans())
async def test_words_are_out_before_the_next_event_is_read(words: str, dialect: Dialect, is_inner: bool) -> None:
    """Tokens appear when the model says them, in the first round and in the later ones."""

    def nothing_waits(sent: bytes) -> None:
        assert StrictReader(dialect).so_far(exchange.body) == StrictReader(dialect).so_far(sent)

    said = Said(words=words, reasoning="hm", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    speaking = answer_of(*events(said, dialect, number=1), after=nothing_waits)
    exchange = Exchange(*streams([Said(calls=(LOOK,))] if is_inner else [], dialect), speaking)
    assert read(await exchange.run(), dialect).words == words


async def test_a_call_of_an_unknown_tool_is_released_when_its_name_is_known() -> None:
    """What can't be answered here is not held a moment longer: agents show calls as they are written."""

    def only_known_tools_wait(sent: bytes) -> None:
        assert exchange.body == (sent if b'"look_up"' not in sent or b'"cancel"' in sent else sent[: len(said_before)])

    stream = events(Said(words="Let me see.", calls=(LOOK, CANCEL)), Dialect(role="merged", step=1))
    said_before = b"".join(event for event in stream if b"content" in event)
    exchange = Exchange(answer_of(*stream, after=only_known_tools_wait), sources=[source := Look()])
    assert await exchange.run() == b"".join(stream)
    assert source.asked == []


async def test_a_name_may_come_after_the_id() -> None:
    """Some servers send a call's id first: until its name is known, it may be one that is answered here."""

    def event(delta: JsonObject, finish: str | None = None) -> bytes:
        return sse.encode_event(json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode())

    for name in ("look_up", "cancel"):
        fragments: list[JsonObject] = [{"id": "call_0_0"}, {"function": {"name": name, "arguments": "{}"}}]
        stream = b"".join(event({"tool_calls": [{"index": 0, **fragment}]}) for fragment in fragments)
        exchange = Exchange(answer_of(stream, event({}, "tool_calls")), *streams([Said(words="Found.")]))
        assert (await exchange.run()).startswith(stream) is (name == "cancel")
        assert len(exchange.sent) == (1 if name == "cancel" else 2)


async def test_comments_keep_the_connection_alive_while_the_model_thinks() -> None:
    """A router between the client and memproxy would close a connection that has been silent for a minute."""

    def comments_are_out(sent: bytes) -> None:
        assert exchange.body.count(comment) == sent.count(comment)

    comment, stream = b": still thinking\n\n", events(Said(words="Hello"), Dialect(comments=True))
    exchange = Exchange(answer_of(*stream, after=comments_are_out))
    assert await exchange.run() == b"".join(stream)
    exchange = Exchange(
        *streams([Said(words="Let me see.", calls=(LOOK,))]), answer_of(*stream, after=comments_are_out)
    )
    assert read(await exchange.run()).words == "Let me see.\n\nHello"


@pytest.mark.parametrize("limits", [Limits(rounds=1), Limits(rounds=0), Limits(seconds=0)])
async def test_the_last_round_is_not_held(limits: Limits) -> None:
    """A model that never stops asking is stopped, and its last calls flow on to the agent as they come."""

    def nothing_waits(sent: bytes) -> None:
        assert exchange.body.count(b'"arguments"') == sent.count(b'"arguments"')

    inside = limits.rounds if limits.seconds else 0
    asks = [Said(calls=(replace(LOOK, id=f"call_{number}_0"),)) for number in range(2)]
    last = answer_of(*events(asks[inside], Dialect(), number=inside), after=nothing_waits)
    exchange = Exchange(*streams(asks[:inside]), last, limits=limits)
    assert [call.id for call in read(await exchange.run()).calls] == [f"call_{inside}_0"]
    assert exchange.done.rounds == inside
    exchange = Exchange(*wholes(asks), limits=limits)
    assert json.loads(await exchange.run())["choices"][0]["message"] == asks[inside].message


async def test_a_round_that_took_too_long_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound in time is kept also when it passes within a round."""
    at = [0.0]

    class Time:
        monotonic = staticmethod(lambda: at[0])

    monkeypatch.setattr(module, "time", Time)
    stream = render(Said(calls=(LOOK,)), Dialect())
    exchange = Exchange(answer_of(stream, after=lambda _: at.append(at.pop() + 61)), sources=[source := Look()])
    assert await exchange.run() == stream
    assert source.asked == []


# What the model server does wrong, in the first round.


async def test_an_answer_that_never_comes_is_refused() -> None:
    """The client is told what is wrong, in its own protocol, and may try again."""
    exchange = Exchange(UpstreamConnectError("no connection"))
    with pytest.raises(UpstreamConnectError):
        await exchange.run()
    assert not exchange.head


@pytest.mark.parametrize("headers", [[EVENT_STREAM], [JSON]])
async def test_a_connection_that_breaks_before_the_first_byte_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """Nothing was sent yet, so an error says more than a broken connection."""
    exchange = Exchange(answer_of(BREAK, headers=headers))
    with pytest.raises(UpstreamBrokenError):
        await exchange.run()
    assert not exchange.head


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (400, [JSON, (b"content-length", b"2"), (b"x-request-id", b"r1")], b"{}"),
        (429, [JSON, (b"retry-after", b"1")], b'{"error": {"message": "slow down"}}'),
        (503, [(b"content-type", b"text/html")], b"<h1>busy</h1>"),
        (500, [EVENT_STREAM], render(Said(calls=(LOOK,)), Dialect())),
        (200, [(b"content-type", b"text/html")], b"<h1>Log in</h1>"),
        (200, [JSON], b""),
        (200, [JSON], b"[1, 2]"),
        (200, [JSON], b'{"choices": null}'),
        (200, [JSON], b'{"choices": [null, 1, {"message": null}]}'),
        (200, [JSON], b'{"error": {"message": "out of credit"}}'),
        (200, [JSON, (b"content-encoding", b"gzip")], b"\x1f\x8bpacked"),
        (200, [EVENT_STREAM], b""),
        (200, [EVENT_STREAM], b"data: {broken\n\ndata: [DONE]\n\n"),
        (200, [EVENT_STREAM], b'data: \n\ndata: 1\n\ndata: {"choices": [1]}\n\ndata: {"choices": [{}]}\n\n'),
        (200, [EVENT_STREAM], b'data: {"error": {"message": "out of credit"}}\n\n'),
    ],
)
async def test_what_is_no_answer_passes_as_it_is(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """The client knows its provider's errors; memproxy adds none of its own."""
    exchange = Exchange(answer_of(body, status=status, headers=headers))
    assert await exchange.run() == body
    assert exchange.head["status"] == exchange.into.status == status
    assert exchange.head["headers"][: len(headers)] == headers
    assert exchange.into.outcome is Outcome.COMPLETED
    assert exchange.is_ended


@pytest.mark.parametrize("kept", [1, 4, 7, 9])
async def test_a_stream_that_breaks_is_the_clients_as_far_as_it_came(kept: int) -> None:
    """Calls that were held come out, too; the broken connection says that they are not whole."""
    stream = [*events(Said(words="Let me", calls=(LOOK,)), Dialect())[:kept], b'data: {"cho']
    exchange = Exchange(answer_of(*stream, BREAK))
    assert await exchange.run() == b"".join(stream)
    assert (exchange.into.outcome, exchange.is_ended) == (Outcome.FAILED, False)
    assert "ReadError" in exchange.into.error


@pytest.mark.parametrize("tail", [[], [b'data: {"error": {"message": "overloaded"}}\n\n'], [b"data: {broken\n\n"]])
async def test_a_stream_that_ends_too_early_is_not_answered(tail: list[bytes]) -> None:
    """A call whose arguments may be cut is never looked up."""
    stream = [*events(Said(calls=(LOOK, UNKNOWN)), Dialect())[:4], *tail, b"data: [DONE]\n\n"]
    exchange = Exchange(answer_of(*stream), sources=[source := Look()])
    assert await exchange.run() == b"".join(stream)
    assert source.asked == []


@pytest.mark.parametrize("finish", ["length", "content_filter", "error"])
async def test_a_round_that_was_cut_is_not_answered(finish: str) -> None:
    """The arguments may lack their end, and still be JSON."""
    said = Said(calls=(replace(LOOK, arguments=""),), finish=finish)
    for exchange, expected in (
        (Exchange(*streams([said])), render(said, Dialect())),
        (Exchange(*wholes([said])), whole(said)),
    ):
        assert await exchange.run() == expected
        assert len(exchange.sent) == 1


# What the model server does wrong, later.

BEGUN = events(Said(calls=(LOOK,)), Dialect(), number=1)
FAILURES: dict[str, Callable[[], UpstreamResponse | UpstreamError]] = {
    "no connection": lambda: UpstreamConnectError("no connection"),
    "too many requests": lambda: answer_of(b"{}", status=429, headers=[JSON]),
    "a server error": lambda: answer_of(b"{}", status=500, headers=[JSON]),
    "a stream with an error status": lambda: answer_of(*BEGUN, status=500),
    "a packed answer": lambda: answer_of(b"x", headers=[EVENT_STREAM, (b"content-encoding", b"gzip")]),
    "broken at once": lambda: answer_of(BREAK),
    "broken in a comment": lambda: answer_of(b": thinking\n\n"[:5], BREAK),
}
STREAM_FAILURES: dict[str, Callable[[], UpstreamResponse | UpstreamError]] = {
    "no stream": lambda: answer_of(whole(Said(words="Found.")), headers=[JSON]),
    "broken after the role": lambda: answer_of(BEGUN[0], BREAK),
    "broken in a call": lambda: answer_of(*BEGUN[:4], BREAK),
    "ended in a call": lambda: answer_of(*BEGUN[:4]),
    "done in a call": lambda: answer_of(*BEGUN[:4], b"data: [DONE]\n\n"),
    "done at once": lambda: answer_of(b"data: [DONE]\n\n"),
    "empty": answer_of,
    "an error at once": lambda: answer_of(b'data: {"error": {"message": "busy"}}\n\n'),
    "an error after the role": lambda: answer_of(*BEGUN[:2], b'data: {"error": {"message": "busy"}}\n\n'),
}
WHOLE_FAILURES: dict[str, Callable[[], UpstreamResponse | UpstreamError]] = {
    "a stream": lambda: answer_of(*BEGUN),
    "broken": lambda: answer_of(b"{", BREAK, headers=[JSON]),
    "empty": lambda: answer_of(b"", headers=[JSON]),
    "no choice": lambda: answer_of(b'{"choices": []}', headers=[JSON]),
    "no message": lambda: answer_of(b'{"choices": [{"index": 0}]}', headers=[JSON]),
    "an error": lambda: answer_of(b'{"error": {"message": "busy"}}', headers=[JSON]),
    "a page": lambda: answer_of(b"<h1>Log in</h1>", headers=[(b"content-type", b"text/html")]),
}


@pytest.mark.parametrize("failure", [*FAILURES, *STREAM_FAILURES])
async def test_a_failing_inner_round_gives_the_calls_to_the_client(failure: str) -> None:
    """The agent runs its tools itself, as without memproxy: an inner round is never a reason for an error."""
    fail = (FAILURES | STREAM_FAILURES)[failure]
    said = Said(words="Let me see.", more_words=" One moment.", calls=(LOOK,))
    stream = render(said, Dialect())
    exchange = Exchange(answer_of(stream), fail())
    assert await exchange.run() == stream
    assert_untouched(exchange, said)
    first, second = said, Said(words="Again.", calls=(replace(LOOK, id="call_1_0"),))
    exchange = Exchange(*streams([first, second]), fail())
    view = read(await exchange.run())
    assert view.words == "Let me see. One moment.\n\nAgain."
    assert view.calls == [replace(LOOK, id="call_1_0")]
    assert exchange.done.rounds == len(exchange.done.answers) == 1
    assert exchange.done.last is not None
    assert [message["role"] for message in exchange.done.instead] == ["assistant", "tool", "assistant"]
    assert exchange.is_ended


async def test_a_comment_is_no_beginning() -> None:
    """A server that only said that it is still there can fail, and the calls are the client's all the same."""
    comment, stream = b": still thinking\n\n", render(Said(calls=(LOOK,)), Dialect())
    exchange = Exchange(answer_of(stream), answer_of(comment, BREAK))
    assert await exchange.run() == comment + stream
    assert exchange.done.rounds == 0


@pytest.mark.parametrize("failure", [*FAILURES, *WHOLE_FAILURES])
async def test_a_failing_inner_round_gives_the_calls_to_a_client_without_a_stream(failure: str) -> None:
    """The same bytes as without memproxy, and after more rounds the words of all."""
    fail = (FAILURES | WHOLE_FAILURES)[failure]
    said = Said(words="Let me see.", calls=(LOOK,), usage={"total_tokens": 5})
    body = whole(said)
    length = (b"content-length", str(len(body)).encode())
    exchange = Exchange(answer_of(body, headers=[JSON, length]), fail())
    assert await exchange.run() == body
    assert_untouched(exchange, said)
    assert length in exchange.head["headers"]
    second = Said(words="Again.", calls=(replace(LOOK, id="call_1_0"),), usage={"total_tokens": 7})
    exchange = Exchange(
        answer_of(body, headers=[JSON, length]), answer_of(whole(second), headers=[JSON, length]), fail()
    )
    value = json.loads(await exchange.run())
    assert value["choices"][0]["message"] == {**second.message, "content": "Let me see.\n\nAgain."}
    assert value["usage"] == {"total_tokens": 12}
    assert length not in exchange.head["headers"]
    assert exchange.done.rounds == 1


def assert_untouched(exchange: Exchange, said: Said) -> None:
    assert exchange.head["status"] == 200
    assert exchange.is_ended
    assert exchange.into.outcome is Outcome.COMPLETED
    assert (exchange.done.rounds, exchange.done.answers, exchange.done.instead) == (0, [], ())
    (last,) = exchange.done.last
    assert last.get("content", "") == said.content


async def test_an_inner_round_that_breaks_after_its_first_words_is_broken_for_the_client() -> None:
    """A made-up ending would be taken for a whole answer."""
    later = events(Said(words="Found it."), Dialect(), number=1)
    exchange = Exchange(*streams([Said(words="Let me see.", calls=(LOOK,))]), answer_of(*later[:3], b"data: {", BREAK))
    body = await exchange.run()
    assert "".join(StrictReader(Dialect()).so_far(body)) == "Let me see.\n\nFound "
    assert (exchange.into.outcome, exchange.is_ended) == (Outcome.FAILED, False)
    assert exchange.done.rounds == 1
    error = b'data: {"error": {"message": "busy"}}\n\n'
    exchange = Exchange(*streams([Said(calls=(LOOK,))]), answer_of(*later[:3], error))
    assert json.loads((await exchange.run()).split(b"data: ")[-1]) == {"error": {"message": "busy"}}


# Sources.


@pytest.mark.parametrize("error", [StoreError("away"), TimeoutError()])
async def test_a_source_that_fails_leaves_the_call_to_the_client(error: Exception) -> None:
    """Memory may be missing; the request may not fail because of it."""
    said = Said(calls=(LOOK,))
    exchange = Exchange(*streams([said]), sources=[Look(error=error)])
    assert await exchange.run() == render(said, Dialect())
    exchange = Exchange(*wholes([said]), sources=[Look(error=error)])
    assert await exchange.run() == whole(said)
    assert exchange.done.answers == []


async def test_a_slow_source_leaves_the_call_to_the_client() -> None:
    """The deadline is for all calls of a round: four slow look-ups take no longer than one."""
    said = Said(calls=tuple(replace(LOOK, id=f"call_0_{at}", arguments=f"[{at}]") for at in range(4)))
    source = Look(waits=asyncio.Event())
    exchange = Exchange(*streams([said]), sources=[source], limits=Limits(look_up_s=0.01))
    assert await exchange.run() == render(said, Dialect())
    assert len(source.asked) == 1


async def test_the_first_source_that_knows_the_tool_is_asked() -> None:
    """Each tool has one place where it is answered."""

    class Other(Look):
        @override
        def may_answer(self, name: str) -> bool:
            return name == "cancel"

    sources = [Other(), Look(), Look()]
    exchange = Exchange(*streams([Said(calls=(LOOK, CANCEL)), Said(words="Done.")]), sources=sources)
    assert read(await exchange.run()).words == "Done."
    assert [[call.id for call in source.asked] for source in sources] == [["call_0_2"], ["call_0_0"], []]


async def test_the_same_call_twice_in_a_round_is_looked_up_once() -> None:
    """Asked twice in one breath is not asked again: both get the one answer."""
    said = Said(calls=(LOOK, replace(LOOK, id="call_0_9")))
    exchange = Exchange(*streams([said, Said(words="Found.")]), sources=[source := Look()])
    assert read(await exchange.run()).words == "Found."
    assert len(source.asked) == 1
    assert exchange.sent[1]["messages"][2:] == results(said)


async def test_arguments_are_looked_up_when_they_are_whole() -> None:
    """Calls whose fragments alternate: a second call does not mean that the first one is complete."""
    calls = (replace(LOOK, arguments='{"q": "long"}'), replace(LOOK, id="call_0_1", arguments="{}"))
    for order in ("in turn", "interleaved"):
        stream = events(Said(calls=calls), Dialect(calls=order, step=1))
        exchange = Exchange(answer_of(*stream), *streams([Said(words="Found.")]), sources=[source := Look()])
        await exchange.run()
        assert [call.arguments for call in source.asked] == ['{"q": "long"}', "{}"]


@pytest.mark.parametrize("calls", [(replace(LOOK, id=""),), (LOOK, replace(LOOK, arguments="[]"))])
async def test_calls_that_no_result_can_be_assigned_to_pass(calls: tuple[Asked, ...]) -> None:
    """Without an id, or with one that stands twice, the model server could not tell which call was answered."""
    said = Said(calls=calls)
    exchange = Exchange(*streams([said]))
    assert await exchange.run() == render(said, Dialect())
    assert len(exchange.sent) == 1


async def test_the_unusual_passes_untouched() -> None:
    """Several choices, the functions of old, custom tools, refusals: as they came, streamed and whole."""
    several = b"".join(
        b'data: {"id":"c","choices":[{"index":%d,"delta":{"tool_calls":[{"index":0,"id":"x","type":"function",'
        b'"function":{"name":"look_up","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}\n\n' % index
        for index in (0, 1)
    )
    legacy: JsonObject = {"role": "assistant", "function_call": {"name": "look_up", "arguments": "{}"}}
    both = {**legacy, "tool_calls": [{"index": 0, **LOOK.whole}]}
    deltas = [
        json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})
        for delta in (legacy, both)
    ]
    custom = Said(calls=(LOOK, replace(CANCEL, name="look_up", is_custom=True)))
    refusal = Said(calls=(LOOK,), refusal="I can't.")
    for body in (
        several,
        *(b"data: " + delta.encode() + b"\n\n" for delta in deltas),
        *(render(said, dialect) for said in (custom, refusal) for dialect in (Dialect(), Dialect(calls="bundled"))),
    ):
        assert await Exchange(answer_of(body)).run() == body
    two = json.dumps({"choices": [{"index": at, "message": Said(calls=(LOOK,)).message} for at in (0, 1)]}).encode()
    unnumbered = json.dumps(
        {"choices": [{"message": Said(calls=(LOOK,)).message, "finish_reason": "stop"}] * 2}
    ).encode()
    for body in (two, unnumbered, whole(custom), whole(refusal)):
        assert await Exchange(answer_of(body, headers=[JSON])).run() == body


# Sizes and heads.


async def test_what_is_too_large_to_be_read_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound, answers have none."""
    monkeypatch.setattr(splice, "MAX_READ_BYTES", 2000)
    monkeypatch.setattr(module, "MAX_READ_BYTES", 2000)
    long_call = Said(calls=(replace(LOOK, arguments="[" + "1, " * 100 + "1]"),))
    for said in (Said(words="so many words " * 50), long_call):
        stream = render(said, Dialect())
        exchange = Exchange(answer_of(*cut(stream, range(0, len(stream), 97))))
        assert await exchange.run() == stream
        assert len(exchange.sent) == 1
    exchange = Exchange(*streams([Said(calls=(LOOK,)), Said(words="so many words " * 50)]))
    assert read(await exchange.run()).words == "so many words " * 50
    for pieces in ([b"data: " + b"x" * 500] * 9, [b"x" * 500] * 9):
        assert await endless(pieces) == b"".join(pieces)


async def endless(pieces: list[bytes]) -> bytes:
    """An event that never ends."""

    def no_more_than_the_bound_waits(sent: bytes) -> None:
        assert len(sent) - len(exchange.body) <= 2000

    exchange = Exchange(answer_of(*pieces, after=no_more_than_the_bound_waits))
    return await exchange.run()


async def test_a_whole_answer_that_is_too_large_passes_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given on piece by piece from the bound on; after an inner round, the round before is given instead."""
    monkeypatch.setattr(module, "MAX_READ_BYTES", 2000)

    def no_more_than_the_bound_waits(sent: bytes) -> None:
        assert len(sent) - len(exchange.body) <= 2000

    body = whole(Said(words="x" * 5000, calls=(LOOK,)))
    headers = [JSON, (b"content-length", str(len(body)).encode())]
    pieces = cut(body, range(0, len(body), 500))
    exchange = Exchange(answer_of(*pieces, headers=headers, after=no_more_than_the_bound_waits))
    assert await exchange.run() == body
    assert exchange.head["headers"][:2] == headers
    exchange = Exchange(answer_of(*pieces, BREAK, headers=headers))
    assert await exchange.run() == body
    assert (exchange.into.outcome, exchange.is_ended) == (Outcome.FAILED, False)
    first = whole(Said(calls=(LOOK,)))
    exchange = Exchange(answer_of(first, headers=[JSON]), answer_of(*pieces, headers=[JSON]))
    assert await exchange.run() == first


async def test_a_length_is_only_given_when_it_is_right() -> None:
    """A head that announces the first round's length would break the connection in the second."""
    said, found = Said(words="Let me see.", calls=(LOOK,)), Said(words="Found.")
    length = (b"content-length", b"1234")
    stream = answer_of(render(said, Dialect()), headers=[EVENT_STREAM, length])
    exchange = Exchange(stream, *streams([found]))
    await exchange.run()
    assert length not in exchange.head["headers"]
    exchange = Exchange(*wholes([said]), answer_of(whole(found), headers=[JSON, length]))
    await exchange.run()
    assert length not in exchange.head["headers"]


async def test_the_head_tells_how_many_calls_were_answered_before_it() -> None:
    """The head waits for the first words, so it knows; where words came earlier, the receipt knows more."""
    exchange = Exchange(*streams([Said(calls=(LOOK,)), Said(words="Found.")]))
    await exchange.run()
    assert exchange.answers_header == b"1"
    exchange = Exchange(*streams([Said(words="Let me see.", calls=(LOOK,)), Said(words="Found.")]))
    await exchange.run()
    assert exchange.answers_header == b"0"
    assert len(exchange.done.answers) == 1


# Tools whose calls the client never sees.


@pytest.mark.parametrize("make", [streams, wholes])
async def test_a_failing_round_after_our_own_calls_alone_is_the_providers_error(
    make: Callable[[Sequence[Said]], list[UpstreamResponse]],
) -> None:
    """There is nothing that the client could carry out: it is told what is wrong, and tries again."""
    said = Said(calls=(LOOK,))
    exchange = Exchange(*make([said]), answer_of(b"{}", status=429, headers=[JSON]), is_ours=Look().may_answer)
    assert await exchange.run() == b"{}"
    assert exchange.head["status"] == 429
    for failure in (UpstreamConnectError("no connection"), answer_of(BREAK), answer_of(BREAK, headers=[JSON])):
        exchange = Exchange(*make([said]), failure, is_ours=Look().may_answer)
        with pytest.raises(UpstreamError):
            await exchange.run()
        assert not exchange.head
    with_words = replace(said, words="Let me see.")
    exchange = Exchange(*make([with_words]), UpstreamConnectError("no connection"), is_ours=Look().may_answer)
    body = await exchange.run()
    assert b"look_up" not in body
    assert exchange.is_ended
    mixed = Said(calls=(replace(LOOK, name="look_far"), LOOK))
    exchange = Exchange(*make([mixed]), UpstreamConnectError("no connection"), is_ours="look_far".__eq__)
    body = await exchange.run()
    assert b"look_up" in body
    assert b"look_far" not in body


async def test_our_own_tools_have_their_own_deadline() -> None:
    """The client can't carry such a call out, so it is waited for."""
    source = Look(waits=asyncio.Event())
    exchange = Exchange(
        *streams([Said(calls=(LOOK,)), Said(words="Found.")]),
        sources=[source],
        limits=Limits(look_up_s=0),
        is_ours=source.may_answer,
    )
    set_soon(source.waits)
    assert read(await exchange.run()).words == "Found."


def set_soon(event: asyncio.Event | None, *, turns: int = 5) -> None:
    """After a few turns of the loop."""
    assert event is not None
    if turns:
        asyncio.get_running_loop().call_soon(lambda: set_soon(event, turns=turns - 1))
    else:
        event.set()


@pytest.mark.parametrize("make", [streams, wholes])
async def test_our_own_call_beside_the_clients_is_carried_out_once(
    make: Callable[[Sequence[Said]], list[UpstreamResponse]],
) -> None:
    """What was answered before the agent's call turned out to be unknown is not done again."""
    ours = replace(LOOK, name="look_far")
    for other in (UNKNOWN, CANCEL):
        source = Look()
        exchange = Exchange(*make([Said(calls=(ours, other))]), sources=[source], is_ours="look_far".__eq__)
        body = await exchange.run()
        assert b"look_far" not in body
        assert [call.name for call in source.asked if call.name == "look_far"] == ["look_far"]
        assert [message["role"] for message in exchange.done.instead] == ["assistant", "tool"]


async def test_our_own_call_is_carried_out_when_the_client_left_with_the_last_byte() -> None:
    """Many clients close the connection at `[DONE]`: what the model wanted to remember is remembered."""

    class Leaving(Look):
        @override
        async def answer(self, call: ToolCall) -> ToolAnswer | None:
            exchange.inbox.put_nowait({"type": "http.disconnect"})
            set_soon(self.waits)
            return await super().answer(call)

    said = Said(calls=(replace(LOOK, name="look_far"), CANCEL))
    exchange = Exchange(*streams([said]), sources=[Leaving(waits=asyncio.Event())], is_ours="look_far".__eq__)
    exchange.inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    await exchange.client.body(max_bytes=1)
    assert [call.name for call in read(await exchange.run()).calls] == ["cancel"]
    assert [message["tool_call_id"] for message in exchange.done.beside] == ["call_0_0"]
    assert exchange.into.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("make", [streams, wholes])
async def test_our_own_call_that_has_no_answer_is_left_out(
    make: Callable[[Sequence[Said]], list[UpstreamResponse]],
) -> None:
    """Without an id no result can be assigned to it; the client must not see it all the same."""
    ours = replace(LOOK, name="look_far", id="")
    exchange = Exchange(*make([Said(calls=(ours, CANCEL))]), is_ours="look_far".__eq__)
    body = await exchange.run()
    assert b"look_far" not in body
    assert b"cancel" in body
    assert exchange.done.instead == ()


# Over HTTP.

TOOLS: Any = [{"type": "function", "function": {"name": "search_orders", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("reply", [Reply(hang=True), Reply(text="Your order is on its way.", cut_after=2, hang=True)])
async def test_a_client_that_leaves_in_an_inner_round_stops_the_model(serve: Serve, reply: Reply) -> None:
    """Nobody pays for words that nobody reads; what was said until then is remembered as broken off."""
    call = ToolCallReply("search_orders", {"query": "laptop"})
    waits = {"now": False}

    def script(request: ModelRequest) -> Reply:
        if request.messages[-1]["role"] == "tool":
            return reply if waits["now"] else Reply(text="It is on its way.")
        return Reply(text="Let me look.", tool_calls=(call,))

    async with serve(script) as served, httpx.AsyncClient(verify=False, timeout=30) as http:
        history: list[JsonObject] = [{"role": "user", "content": "Where is my laptop?"}]
        history.append((await ask(served, http, history)).json()["choices"][0]["message"])
        history.append({"role": "tool", "tool_call_id": history[1]["tool_calls"][0]["id"], "content": "LX-7"})
        history.append((await ask(served, http, history)).json()["choices"][0]["message"])
        waits["now"] = True
        history.append({"role": "user", "content": "And when will it come?"})
        async with http.stream(
            "POST", path(served), json={**request_of(history), "stream": True}, headers=KEY
        ) as response:
            request_id = response.headers["x-memproxy-request-id"]
            async with asyncio.timeout(10):
                await anext(response.aiter_bytes())
                await served.model.wait_until(lambda: len(served.model.requests) == 4)
        left_at = time.monotonic()
        await served.model.wait_until(lambda: bool(served.model.disconnects))
        assert served.model.disconnects[0].at - left_at < 1.0
        await served.settled()
        receipt = (await http.get(f"{served.origin}/memproxy/explain/{request_id}", headers=KEY)).json()
    assert receipt["outcome"] == "aborted"


KEY = {"Authorization": "Bearer sk-test"}


def path(served: Served) -> str:
    return f"{served.origin}/u/alice/s/one/v1/chat/completions"


def request_of(history: Sequence[JsonObject]) -> JsonObject:
    return {"model": "m", "messages": history, "tools": TOOLS}


async def ask(served: Served, http: httpx.AsyncClient, history: Sequence[JsonObject]) -> httpx.Response:
    return await http.post(path(served), json=request_of(history), headers=KEY)
