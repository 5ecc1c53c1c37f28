"""What was done to a request: in the response's headers, and in full under its id."""

import dataclasses
import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from memproxy.identity import Claims, SplitPath
from memproxy.proxy import receipts as module
from memproxy.proxy.align import align
from memproxy.proxy.answer import Answering
from memproxy.proxy.compose import Cut, Placement
from memproxy.proxy.conversation import read_conversation
from memproxy.proxy.receipts import Receipts, answered_receipt, receipt_headers, receipt_of, usage_receipt
from memproxy.proxy.stages import Inbound, Outbound, Packed, Remembered
from memproxy.records import (
    MemoryMode,
    MemoryRecord,
    MemoryType,
    Pin,
    Scope,
    ScoredMemory,
    SessionKey,
    StoredMessage,
    ToolAnswer,
    ToolCacheMode,
    ToolCall,
)
from memproxy.storage.working import LoadedSession
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Answer

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
SCOPE = Scope("tenant", "ann", "shop")
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "secret words"}]}).encode()


def inbound() -> Inbound:
    path, request = SplitPath({}, b"/chat/completions"), CHAT_COMPLETIONS.read(BODY)
    return Inbound(
        "mpr-1", NOON, time.monotonic(), BODY, Packed(BODY, BODY), path, CHAT_COMPLETIONS, request, {}, "tenant"
    )


def remembered(session: str = "one", thread: str = "", loaded: LoadedSession | None = None) -> Remembered:
    request = CHAT_COMPLETIONS.read(BODY)
    assert request is not None
    conversation = read_conversation(request)
    return Remembered(
        scope=SCOPE,
        claims=Claims("ann", session, "shop", user_rule="path", session_rule="header"),
        mode=MemoryMode.FULL,
        tool_cache=ToolCacheMode.ANSWER,
        offers_tools=False,
        request=request,
        conversation=conversation,
        session=loaded,
        alignment=align((), conversation.entries, sends_newest=False),
        key=SessionKey(SCOPE, session, thread),
        is_retry=False,
        degraded=(),
    )


def memory(id_: str) -> ScoredMemory:
    record = MemoryRecord(id_, SCOPE, "likes tea", MemoryType.SEMANTIC, NOON)
    return ScoredMemory(record, score=0.123456, text_score=0.5, vector_score=-0.25)


def outbound(**given: Any) -> Outbound:
    pin = Pin("<block>", ("a", "b"))
    told: dict[str, Any] = {
        "body": b"changed",
        "remembered": remembered(),
        "placement": Placement(0, pin),
        "found": (memory("a"), memory("c")),
        "degraded": ("recall", "history", "recall"),
    }
    return Outbound(**(told | given))


def answering(*tools: str) -> Answering:
    answers = [ToolAnswer(ToolCall("c", tool, "{}"), "found", "cache", age_s=1.5) for tool in tools]
    return Answering(answers=answers, rounds=len(tools))


def headers_of(told: Outbound, inside: Answering | None = None) -> dict[bytes, bytes]:
    return dict(receipt_headers(inbound(), told, inside or answering()))


def test_headers_say_what_was_done() -> None:
    """An agent's developer sees in any client's log whose memory was used, and how much of it."""
    assert headers_of(outbound(), answering("look_up", "list")) == {
        b"x-memproxy-request-id": b"mpr-1",
        b"x-memproxy-session": b"one",
        b"x-memproxy-identity": b"path+header",
        b"x-memproxy-memories": b"2",
        b"x-memproxy-tool-answers": b"2",
        b"x-memproxy-degraded": b"recall,history",
    }


def test_without_memory_only_the_request_is_named() -> None:
    """A header that is absent says more than one that is wrong."""
    assert headers_of(Outbound(BODY)) == {b"x-memproxy-request-id": b"mpr-1"}
    plain = headers_of(outbound(placement=None, degraded=()))
    assert plain[b"x-memproxy-memories"] == b"0"
    assert b"x-memproxy-degraded" not in plain


@pytest.mark.parametrize(
    ("session", "header"),
    [("a b/c:1", b"a b/c:1"), ("zoë", b"zo%C3%AB"), ("100%", b"100%25"), ("山", b"%E5%B1%B1"), ('"x"', b'"x"')],
)
def test_a_session_of_any_name_fits_into_a_header(session: str, header: bytes) -> None:
    """No name breaks the response, and none can add a header of its own."""
    headers = headers_of(outbound(remembered=remembered(session)))
    assert headers[b"x-memproxy-session"] == header
    assert all(0x20 <= byte < 0x7F for value in headers.values() for byte in value)


def test_a_receipt_tells_why_each_memory_was_or_was_not_injected() -> None:
    """ "Why did it say that?" has an answer."""
    receipt = receipt_of(inbound(), outbound())
    assert receipt["identity"] == {
        "user": "ann",
        "session": "one",
        "thread": None,
        "namespace": "shop",
        "rule": "path+header",
    }
    assert [(told["id"], told["injected"], told["score"]) for told in receipt["memories"]] == [
        ("a", True, 0.1235),
        ("c", False, 0.1235),
    ]
    assert receipt["injected"] == {"at_message": 0, "block": "<block>"}
    assert receipt["alignment"] == {
        "shape": "whole",
        "stored_before": 0,
        "restored": 0,
        "new": 1,
        "branches": False,
    }
    assert (receipt["degraded"], receipt["cut"], receipt["replayed"]) == (["recall", "history"], None, 0)
    assert (receipt["bytes_in"], receipt["bytes_out"], receipt["unchanged"]) == (len(BODY), 7, False)
    assert receipt["prepare_seconds"] >= 0
    assert "secret words" not in str(receipt)
    assert msgspec.json.decode(msgspec.json.encode(receipt))["at"] == "2025-06-01T12:00:00Z"


def test_a_receipt_tells_of_restored_and_cut_history() -> None:
    """Why the model did not know what was said at noon can be looked up."""
    kept = StoredMessage({"role": "user", "content": "x"}, digest="00" * 16, tokens=1, at=NOON)
    loaded = LoadedSession(SessionKey(SCOPE, "one"), length=9, tokens=9, exact_prefix=None, pins={0: Pin("<old>")})
    known = remembered(thread="t", loaded=loaded)
    receipt = receipt_of(
        inbound(), outbound(remembered=known, history=(kept, kept), cut=Cut(4, "<note>"), placement=None, found=())
    )
    assert (receipt["alignment"]["stored_before"], receipt["alignment"]["restored"]) == (9, 2)
    assert receipt["cut"] == {"position": 4, "note": "<note>"}
    assert (receipt["replayed"], receipt["injected"], receipt["memories"]) == (1, None, [])
    assert receipt["identity"]["thread"] == "t"


def test_a_receipt_tells_which_calls_were_answered_here() -> None:
    """Whoever wonders why a tool was not called finds out how old its answer was."""
    assert answered_receipt(answering("look_up")) == {
        "tool_answers": [{"tool": "look_up", "source": "cache", "age_s": 1.5}],
        "rounds_inside": 1,
    }
    assert answered_receipt(Answering()) == {"tool_answers": [], "rounds_inside": 0}


def test_a_receipt_tells_why_there_was_no_memory() -> None:
    """Memory that stays out of a request says so."""
    receipt = receipt_of(inbound(), Outbound(BODY, reason="a utility call"))
    assert receipt["memory_left_out"] == "a utility call"
    assert "identity" not in receipt
    same = dataclasses.replace(inbound())
    assert receipt_of(same, Outbound(same.body))["unchanged"]


def test_receipts_are_kept_for_their_tenant_and_only_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads another tenant's receipts, and the process does not grow by them."""
    monkeypatch.setattr(module, "KEPT", 3)
    receipts = Receipts()
    for number in range(5):
        receipts.put("tenant", f"r{number}", {"number": number})
    assert [receipts.get("tenant", f"r{number}") for number in range(5)] == [
        None,
        None,
        *({"number": n} for n in (2, 3, 4)),
    ]
    assert receipts.get("other", "r4") is None


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, None),
        ({"prompt_tokens": 50, "completion_tokens": 2}, (50, None, 2)),
        ({"prompt_tokens": 50, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 40}}, (50, 40, 2)),
        ({"input_tokens": 50, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 0}}, (50, 0, 2)),
        (
            {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 5},
            (50, 40, 2),
        ),
    ],
)
def test_the_receipt_tells_what_the_prompt_cache_gave(usage: Any, tokens: Any) -> None:
    """Formats count differently; the receipt says the same of all, beside the provider's own words."""
    told = usage_receipt(Answer((), finished=True, usage=usage))
    named = dict(zip(("prompt", "cached", "completion"), tokens, strict=True)) if tokens else None
    assert told == {"usage": usage, "tokens": named}
