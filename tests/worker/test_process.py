"""The workers of one process."""

import asyncio
import json
from dataclasses import replace
from typing import Any

from openai import AsyncOpenAI
from redis.asyncio import Redis

from memproxy.clock import SystemClock
from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel
from memproxy.embedding import LocalEmbedder
from memproxy.identity import SINGLE_TENANT
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.search import Query, SearchMode
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.long_term import LongTermStore
from memproxy.worker.process import look
from tests.fakes.serving import Serve, Served, until

ALICE = Scope(SINGLE_TENANT, "alice")


async def say(client: AsyncOpenAI, words: str) -> None:
    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": words}])


def facts(request: ModelRequest) -> Reply:
    """A model that takes every message for a fact."""
    shown: dict[str, Any] = json.loads(request.last_user_text)
    made = [
        {"text": said["words"], "type": "semantic", "topics": [], "entities": [], "event_date": None,
         "evidence": said["words"]}
        for said in shown.get("messages", ())
        if said["role"] == "user"
    ]  # fmt: skip
    return Reply(json.dumps({"memories": made}))


async def known(served: Served) -> set[str]:
    """What a model has made of what Alice said."""
    _, records = await served.instance.services.long_term.newest(ALICE, limit=100)
    return {record.text for record in records if record.type is not MemoryType.MESSAGE}


async def test_workers_learn_while_requests_go_on_and_stop_with_the_process(serve: Serve) -> None:
    """What is said becomes a memory without any further request; ending the process ends its workers."""
    async with serve() as served, served.openai("/u/alice/s/one/v1") as client:
        await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "My cat is called Whiskers."}]
        )
        await served.settled()
        services = served.instance.services
        metrics = services.metrics.render()
    assert b'memproxy_jobs_total{event="turns.done"} 1.0' in metrics


async def test_a_process_may_serve_without_workers(serve: Serve) -> None:
    """Where workers run apart, turns wait in the queue for them."""
    async with serve(run_worker=False) as served:
        async with served.openai("/u/alice/s/one/v1") as client:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "My cat is called Whiskers."}]
            )

        async def is_recorded() -> bool:
            return served.instance.app.recorder.is_idle

        await until(is_recorded)
        assert not await served.instance.is_quiet()
    async with serve() as served:
        await served.settled()
        async with served.openai("/u/alice/s/two/v1") as client:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "What is my cat called?"}]
            )
        assert b"Whiskers" in served.model.requests[-1].raw_body


async def test_what_is_said_while_the_model_reads_is_read_next_without_any_further_request(serve: Serve) -> None:
    """Nobody has to come back for the last thing they said to be remembered."""
    second_is_said = asyncio.Event()
    calls: list[int] = []

    def slow_at_first(request: ModelRequest) -> Reply:
        calls.append(len(request.messages))
        return replace(facts(request), delay_s=0.0 if second_is_said.is_set() else 1.0)

    async with ScriptedModel(slow_at_first).serve() as model:
        settings = {"extraction_base_url": model.base_url, "extraction_model": "m"}
        async with serve(**settings) as served, served.openai("/u/alice/s/one/v1") as client:
            await say(client, "My cat is called Whiskers.")
            await model.model.wait_until(lambda: bool(calls), timeout_s=20)
            await say(client, "My dog is called Rex.")
            second_is_said.set()
            await served.settled()
            assert await known(served) == {"My cat is called Whiskers.", "My dog is called Rex."}
    assert len(calls) >= 2


async def test_turns_that_follow_each_other_are_read_in_one_call(serve: Serve) -> None:
    """A chat of ten short messages costs one call, made when it pauses."""
    calls: list[ModelRequest] = []

    def answer(request: ModelRequest) -> Reply:
        calls.append(request)
        return facts(request)

    async with ScriptedModel(answer).serve() as model:
        settings = {"extraction_base_url": model.base_url, "extraction_model": "m", "extraction_debounce_s": 1}
        async with serve(**settings) as served, served.openai("/u/alice/s/one/v1") as client:
            names = ("Whiskers", "Rex", "Polly", "Nemo")
            for name in names:
                await say(client, f"One of my pets is called {name}.")
            await served.settled()
            assert len(await known(served)) == len(names)
    reading = [call for call in calls if "messages" in json.loads(call.last_user_text)]
    assert len(reading) == 1


async def test_the_queues_are_measured_wherever_memproxy_serves(serve: Serve, redis: Redis) -> None:
    """Whoever watches the proxy sees a queue that stands still, also where workers run elsewhere."""
    async with serve(run_worker=False) as served, served.openai("/u/alice/s/one/v1") as client:
        await say(client, "My cat is called Whiskers.")

        async def is_recorded() -> bool:
            return served.instance.app.recorder.is_idle

        await until(is_recorded)
        services = served.instance.services
        used = (await redis.info("memory"))["used_memory"]
        await redis.config_set("maxmemory", 2 * used)
        try:
            await look(services, {})
        finally:
            await redis.config_set("maxmemory", "0")
        shown = services.metrics.render().decode()
    assert 'memproxy_queued_turns{stage="turns",state="waiting"} 1.0' in shown
    assert 'memproxy_queued_turns{stage="learn",state="dead"} 0.0' in shown
    assert 0.3 < services.store_memory.share < 0.7


async def test_a_process_says_how_many_partitions_it_works_on(serve: Serve) -> None:
    """An operator sees that the work is shared out."""
    async with serve() as served:
        services = served.instance.services

        async def has_all() -> bool:
            return b'memproxy_worker_partitions{stage="turns"} 16.0' in services.metrics.render()

        await until(has_all)


async def test_memories_of_another_embedding_model_are_found_by_meaning_again(serve: Serve, redis: Redis) -> None:
    """Whoever changes the model, or upgrades, keeps what was learned, without a command to think of."""

    class Former(LocalEmbedder):
        name = "former"

    store = LongTermStore(redis, model=Former.name, dims=Former().dims)
    await store.ensure_index()
    tea = MemoryRecord("m", ALICE, "I love oolong tea", MemoryType.SEMANTIC, SystemClock().now())
    await LongTermMemory(store, Former()).remember([tea])
    async with serve() as served:

        async def is_found() -> bool:
            found = await served.instance.services.long_term.find(SINGLE_TENANT, Query("tea", mode=SearchMode.SEMANTIC))
            return found.total == 1

        await until(is_found)
