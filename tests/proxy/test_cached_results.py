"""The tool cache in one request: what it learns from the messages, and which calls it answers."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.identity import Claims
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.proxy import cached_results as module
from memproxy.proxy.align import align
from memproxy.proxy.cached_results import CachedResults, ToolCache
from memproxy.proxy.conversation import entry_of, read_conversation
from memproxy.proxy.stages import Outbound, Remembered
from memproxy.records import (
    JsonObject,
    MemoryMode,
    Pin,
    Scope,
    SessionKey,
    StoredMessage,
    ToolAnswer,
    ToolCacheMode,
    ToolCall,
)
from memproxy.storage.tool_counts import ToolCounts
from memproxy.storage.tool_results import Lessons, ToolResultStore
from memproxy.storage.working import LoadedSession
from memproxy.telemetry.metrics import Metrics
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS

SCOPE = Scope("tenant", "ann")
TOOLS: list[JsonObject] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_order", "list_orders", "cancel_order")
]
INSTRUCTIONS: JsonObject = {"role": "system", "content": "You are a support agent."}
QUESTION: JsonObject = {"role": "user", "content": "Where is my order?"}


@dataclass
class SetClock:
    """A clock that stands still."""

    at: datetime = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return 0.0


class Failing(ToolResultStore):
    """A store that can't be used for a while."""

    error: Exception | None = StoreUnavailableError("away")

    @override
    async def apply(self, session: SessionKey, lessons: Lessons) -> None:
        if self.error is not None:
            raise self.error
        await super().apply(session, lessons)


class Hanging(ToolResultStore):
    """A store that never answers."""

    @override
    async def apply(self, session: SessionKey, lessons: Lessons) -> None:
        await asyncio.Event().wait()


class Setting:
    """A tool cache on a real store, and what it counted."""

    def __init__(self, redis: Redis, kind: type[ToolResultStore] = ToolResultStore) -> None:
        self.clock, self.metrics, self.counts = SetClock(), Metrics(), ToolCounts(redis)
        self.store = kind(redis, max_results=100, max_bytes=100_000)
        self.cache = ToolCache(
            self.store, self.counts, ToolPolicy(), clock=self.clock, metrics=self.metrics, deadline_s=0.05
        )

    async def source(
        self, *messages: JsonObject, history: Sequence[JsonObject] = (), **given: Any
    ) -> CachedResults | None:
        """What may answer the calls of a request with these messages."""
        stored = tuple(StoredMessage(message, "", 0, self.clock.at) for message in history)
        return await self.cache.for_request(remembered(*messages, **given), Outbound(b"", before=stored))

    async def ask(self, *messages: JsonObject, call: ToolCall | None = None, **given: Any) -> ToolAnswer | None:
        """What a request with these messages is told when the model calls a tool."""
        source = await self.source(*messages, **given)
        assert source is not None
        return await source.answer(call or ToolCall("new", "get_order", "{}"))


@pytest.fixture
def setting(redis: Redis) -> Setting:
    return Setting(redis)


def remembered(
    *messages: JsonObject,
    known: int = 0,
    tools: Any = TOOLS,
    named: str = "one",
    pins: dict[int, Pin] | None = None,
    **given: Any,
) -> Remembered:
    """A request of which the first `known` messages are in the session's log."""
    request = CHAT_COMPLETIONS.read(json.dumps({"messages": [INSTRUCTIONS, *messages], "tools": tools}).encode())
    assert request is not None
    conversation = read_conversation(request)
    log = [entry_of(CHAT_COMPLETIONS, message) for message in given.pop("log", messages[:known])]
    told: JsonObject = {
        "scope": SCOPE,
        "claims": Claims("ann", named, None, user_rule="path", session_rule="header"),
        "mode": MemoryMode.FULL,
        "tool_cache": ToolCacheMode.ANSWER,
        "offers_tools": False,
        "request": request,
        "conversation": conversation,
        "session": None if pins is None else loaded(pins),
        "alignment": align(log, conversation.entries, sends_newest=False),
        "key": SessionKey(SCOPE, named),
        "is_retry": False,
        "degraded": (),
    }
    return Remembered(**{**told, **given})


def loaded(pins: dict[int, Pin]) -> LoadedSession:
    return LoadedSession(SessionKey(SCOPE, "one"), length=9, tokens=0, exact_prefix=0, pins=pins)


def called(name: str = "get_order", arguments: str = "{}", *, id_: str = "a") -> JsonObject:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": id_, "type": "function", "function": function}]}


def result(content: Any = "on its way", *, id_: str = "a") -> JsonObject:
    return {"role": "tool", "tool_call_id": id_, "content": content}


LOOKED_UP = (QUESTION, called(), result())
ANSWERED = (*LOOKED_UP, {"role": "assistant", "content": "It is on its way."}, {"role": "user", "content": "When?"})


async def test_a_delivered_result_answers_the_same_call(setting: Setting) -> None:
    """The point of it all: what the agent found once is not looked up again."""
    await setting.source(*LOOKED_UP, known=2)
    setting.clock.at += timedelta(seconds=90.5)
    source = await setting.source(*ANSWERED, known=4)
    assert source is not None
    call = ToolCall("b", "get_order", " {} ")
    assert await source.answer(call) == ToolAnswer(call, "on its way", "cache", age_s=90.5)
    assert source.events == [("hit", "get_order")]
    assert [source.may_answer(name) for name in ("get_order", "list_orders", "cancel_order", "other")] == [
        True,
        True,
        False,
        False,
    ]


async def test_parts_are_given_as_they_were_delivered(setting: Setting) -> None:
    """A result may be a list of parts."""
    parts = [{"type": "text", "text": "on its way"}]
    await setting.source(QUESTION, called(), result(parts), known=2)
    answer = await setting.ask(*ANSWERED, known=4)
    assert answer is not None
    assert answer.content == parts


@pytest.mark.parametrize(
    "call", [("get_order", '{"id": 1}'), ("list_orders", "{}"), ("get_order", "{broken"), ("cancel_order", "{}")]
)
async def test_other_calls_go_to_the_agent(setting: Setting, call: tuple[str, str]) -> None:
    """Only what was asked in the same way is known."""
    await setting.source(*LOOKED_UP, known=2)
    assert await setting.ask(*ANSWERED, known=4, call=ToolCall("b", *call)) is None


async def test_other_sessions_and_old_results_are_not_asked(setting: Setting) -> None:
    """A result is its session's, and only as long as it is good."""
    await setting.source(*LOOKED_UP, known=2)
    assert await setting.ask(*ANSWERED, known=4, named="two") is None
    setting.clock.at += timedelta(days=30)
    assert await setting.ask(*ANSWERED, known=4) is None


async def test_a_model_that_asks_again_is_sent_to_the_agent(setting: Setting) -> None:
    """Whoever asks for what it was just told wants to know whether it is still so."""
    await setting.source(*LOOKED_UP, known=2)
    source = await setting.source(*ANSWERED, known=4)
    assert source is not None
    call = ToolCall("b", "get_order", "{}")
    assert await source.answer(call) is not None
    assert await source.answer(call) is None
    assert source.events == [("hit", "get_order"), ("bypassed", "get_order")]


@pytest.mark.parametrize(("at", "is_given"), [(5, False), (3, True)])
async def test_what_was_told_since_the_user_spoke_is_told_once(setting: Setting, at: int, is_given: bool) -> None:
    """The agent ran another tool in between, so it is still the same turn; a new question begins another."""
    await setting.source(*LOOKED_UP, known=2)
    pin = Pin(instead=(called(id_="h"), result(id_="h"), called("list_orders", id_="b")))
    messages = (*ANSWERED, called("list_orders", id_="b"), result("[]", id_="b"))
    answer = await setting.ask(*messages, known=6, pins={at: pin})
    assert (answer is not None) is is_given


@pytest.mark.parametrize("was_told", [True, False])
async def test_what_was_told_counts_also_where_no_user_speaks(setting: Setting, was_told: bool) -> None:
    """An agent may run without a user: then everything that was told counts."""
    await setting.source(*LOOKED_UP, known=2)
    pin = Pin(instead=(called(id_="h"), result(id_="h"), {"role": "assistant", "content": "x"}) if was_told else ())
    answer = await setting.ask(*LOOKED_UP[1:], log=LOOKED_UP[1:2], pins={0: pin})
    assert (answer is None) is was_told


async def test_nothing_is_answered_without_tools_or_without_the_session(setting: Setting) -> None:
    """Where it is not known what happened before, no result can be trusted."""
    nothing: list[Any] = [None, [], {}, "all"]
    for tools in nothing:
        assert await setting.source(*LOOKED_UP, known=2, tools=tools) is None
    assert await setting.source(*LOOKED_UP, known=2, degraded=("session",)) is None
    assert await setting.ask(*ANSWERED, known=4) is None


async def test_a_call_that_may_change_something_clears_before_its_answer_is_known(setting: Setting) -> None:
    """Learning comes first: the request that delivers a cancellation is not answered with what was before it."""
    await setting.source(*LOOKED_UP, known=2)
    cancelled = (*ANSWERED, called("cancel_order", id_="c"), result("cancelled", id_="c"))
    source = await setting.source(*cancelled, known=6)
    assert source is not None
    assert await source.answer(ToolCall("d", "get_order", "{}")) is None
    assert source.events == [("invalidated", ""), ("missed", "get_order")]


async def test_a_request_that_may_not_be_learned_from_still_clears(setting: Setting) -> None:
    """Reading along keeps nothing, but what happened has happened."""
    await setting.source(*LOOKED_UP, known=2, mode=MemoryMode.READ)
    assert await setting.ask(*ANSWERED, known=4) is None
    await setting.source(*LOOKED_UP, known=2)
    cancelled = (*ANSWERED, called("cancel_order", id_="c"), result("cancelled", id_="c"))
    assert await setting.ask(*cancelled, known=6, mode=MemoryMode.READ) is None
    assert await setting.ask(*ANSWERED, known=4) is None


async def test_a_client_that_sends_its_newest_message_is_learned_from(setting: Setting) -> None:
    """The call stands in the stored history, its result in the request."""
    await setting.source(result(), history=LOOKED_UP[:2], log=LOOKED_UP[:2])
    assert await setting.ask(*ANSWERED, known=4) is not None


async def test_a_conversation_that_left_the_log_is_read_from_its_beginning(setting: Setting) -> None:
    """What it asked for in between was never seen."""
    await setting.source(*LOOKED_UP, known=2)
    edited = (QUESTION, called("cancel_order", id_="c"), result("cancelled", id_="c"), *ANSWERED[3:])
    log = (QUESTION, *ANSWERED[3:], {"role": "assistant", "content": "Tomorrow."})
    assert remembered(*edited, log=log).alignment.branches
    assert await setting.ask(*edited, log=log) is None


async def test_messages_that_were_known_teach_nothing_again(setting: Setting) -> None:
    """A result that is sent again with the history would make itself young again."""
    await setting.source(*LOOKED_UP, known=2)
    setting.clock.at += timedelta(seconds=100)
    source = await setting.source(*ANSWERED, known=4)
    assert source is not None
    answer = await source.answer(ToolCall("b", "get_order", "{}"))
    assert answer is not None
    assert answer.age_s == 100


async def test_a_store_that_fails_is_not_trusted_before_it_forgot(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """What it could not be told may have been a change: everything from before is dropped."""
    setting = Setting(redis, Failing)
    assert isinstance(setting.store, Failing)
    setting.store.error = None
    await setting.source(*LOOKED_UP, known=2)
    setting.store.error = StoreUnavailableError("away")
    cancelled = (*ANSWERED, called("cancel_order", id_="c"), result("cancelled", id_="c"))
    assert await setting.source(*cancelled, known=6) is None
    assert "going on without cached tool results: away" in caplog.text
    setting.store.error = None
    after = (*cancelled, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Sure?"})
    assert await setting.ask(*after, known=8) is None
    await setting.source(*LOOKED_UP, known=2)
    assert await setting.ask(*ANSWERED, known=4) is not None


async def test_a_slow_store_is_not_waited_for(redis: Redis) -> None:
    """The user's request goes on."""
    async with asyncio.timeout(10):
        assert await Setting(redis, Hanging).source(*LOOKED_UP, known=2) is None


async def test_sessions_that_are_not_trusted_are_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for hours may not fill memory."""
    monkeypatch.setattr(module, "MAX_UNSURE", 2)
    setting = Setting(redis, Failing)
    for name in "abcd":
        assert await setting.source(*LOOKED_UP, known=2, named=name) is None
    assert len(setting.cache._unsure) == 2


# Counting.


async def test_what_became_of_calls_is_counted(setting: Setting) -> None:
    """For everybody's metrics and for the report."""
    await setting.source(*LOOKED_UP, known=2)
    source = await setting.source(*ANSWERED, known=4)
    assert source is not None
    await source.answer(ToolCall("b", "get_order", "{}"))
    await source.answer(ToolCall("c", "list_orders", "{}"))
    await setting.cache.finish(source, [ToolCall("c", "list_orders", "{}")], mode=ToolCacheMode.ANSWER, tokens_saved=7)
    assert await setting.counts.totals() == {
        ("hit", "get_order"): 1,
        ("missed", "list_orders"): 1,
        ("tokens_saved", ""): 7,
    }
    assert setting.metrics.registry.get_sample_value("memproxy_tool_calls_total", {"outcome": "hit"}) == 1


async def test_observing_counts_what_would_have_been_answered(setting: Setting) -> None:
    """An operator sees what the cache would do before it does it."""
    await setting.source(*LOOKED_UP, known=2)
    source = await setting.source(*ANSWERED, known=4)
    assert source is not None
    calls = [ToolCall("b", name, "{}") for name in ("get_order", "list_orders", "cancel_order")]
    await setting.cache.finish(source, calls, mode=ToolCacheMode.OBSERVE, tokens_saved=0)
    assert await setting.counts.totals() == {("would_hit", "get_order"): 1, ("missed", "list_orders"): 1}


async def test_nothing_to_count_costs_nothing(setting: Setting, redis: Redis) -> None:
    """Most requests have no calls."""
    source = await setting.source(QUESTION)
    assert source is not None
    await setting.cache.finish(source, [], mode=ToolCacheMode.ANSWER, tokens_saved=0)
    assert await setting.counts.totals() == {}


async def test_counting_never_fails_a_request(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """It runs behind the last byte, and a store that is away is only a warning."""
    setting = Setting(redis)
    source = await setting.source(QUESTION)
    assert source is not None

    class Broken(ToolCounts):
        @override
        async def add(self, outcomes: Any, *, tokens_saved: int = 0) -> None:
            raise StoreError("away")

    cache = ToolCache(
        setting.store, Broken(redis), ToolPolicy(), clock=setting.clock, metrics=setting.metrics, deadline_s=1
    )
    await cache.finish(source, [], mode=ToolCacheMode.ANSWER, tokens_saved=1)
    assert "tool calls were not counted: away" in caplog.text
