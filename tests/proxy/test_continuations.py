"""Going on from an answer by the id that the client knows."""

import json
from typing import Any

from redis.asyncio import Redis

from memproxy.errors import StoreUnavailableError
from memproxy.proxy import continuations as module
from memproxy.proxy.continuations import Continuations, known_id_of
from memproxy.records import JsonObject, Scope
from memproxy.storage.continuations import Continuation, ContinuationStore
from memproxy.tasks import Tasks
from memproxy.wire.dialect import Request
from memproxy.wire.response_dialect import RESPONSES

ANN = Scope("tenant", "ann")
RESULT: JsonObject = {"type": "function_call_output", "call_id": "a", "output": "x"}


def request(**fields: Any) -> Request:
    read = RESPONSES.read(json.dumps({"input": "hi", **fields}).encode())
    assert read is not None
    return read


async def test_a_request_is_followed_in_any_process(redis: Redis) -> None:
    """The next request may reach another process behind the same load balancer."""
    tasks = Tasks()
    one, other = (Continuations(ContinuationStore(redis, ttl_s=60), tasks, deadline_s=20) for _ in range(2))
    one.put(ANN, "seen", Continuation("real", (RESULT,)))
    await tasks.drain(20)
    for process in (one, other):
        told = json.loads(await process.applied(ANN, request(previous_response_id="seen")))
        assert told["previous_response_id"] == "real"
        assert told["input"] == [RESULT, {"role": "user", "content": "hi"}]
        assert await process.path(ANN, b"/responses/seen/input_items") == b"/responses/real/input_items"
        assert await process.path(Scope("tenant", "bob"), b"/responses/seen") == b"/responses/seen"


async def test_what_stands_for_itself_is_not_touched(redis: Redis) -> None:
    """Most ids do: their requests keep their bytes."""
    known = Continuations(ContinuationStore(redis, ttl_s=60), Tasks(), deadline_s=20)
    for asked in (request(), request(previous_response_id="resp_1"), request(previous_response_id="x" * 300)):
        assert await known.applied(ANN, asked) is asked.body
    for path in (b"/responses/resp_1/cancel", b"/responses/", b"/models", b"/models/seen"):
        assert await known.path(ANN, path) == path


async def test_a_conversation_gets_the_results_that_it_waits_for(redis: Redis) -> None:
    """Once; after the next answer nothing waits."""
    known = Continuations(ContinuationStore(redis, ttl_s=60), Tasks(), deadline_s=20)
    asked = request(conversation={"id": "conv_1"})
    assert (known_id_of(asked), known_id_of(request(conversation="conv_1"))) == ("conv_1", "conv_1")
    known.put(ANN, "conv_1", Continuation("", (RESULT,)))
    told = json.loads(await known.applied(ANN, asked))
    assert (told["conversation"], told["input"][0]) == ({"id": "conv_1"}, RESULT)
    known.put(ANN, "conv_1", Continuation(""))
    assert await known.applied(ANN, asked) is asked.body


async def test_a_store_that_is_away_costs_nothing_but_other_processes_answers(monkeypatch: Any) -> None:
    """What this process gave, it can follow; anything else goes on under its own id."""

    class Away:
        async def put(self, *_: Any) -> None:
            raise StoreUnavailableError("away")

        async def get(self, *_: Any) -> None:
            raise StoreUnavailableError("away")

    monkeypatch.setattr(module, "KEPT", 1)
    tasks = Tasks()
    known = Continuations(Away(), tasks, deadline_s=1)  # type: ignore[arg-type]  # a store in name
    known.put(ANN, "first", Continuation("real"))
    known.put(ANN, "seen", Continuation("real"))
    await tasks.drain(5)
    assert b'"real"' in await known.applied(ANN, request(previous_response_id="seen"))
    asked = request(previous_response_id="first")
    assert await known.applied(ANN, asked) is asked.body
