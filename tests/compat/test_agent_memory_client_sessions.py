"""agent-memory-client 0.14.0, unmodified: its sessions, prompts and summary views."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from agent_memory_client import MemoryAPIClient
from agent_memory_client.exceptions import MemoryNotFoundError
from agent_memory_client.models import (
    CreateSummaryViewRequest,
    MemoryMessage,
    MemoryStrategyConfig,
    WorkingMemory,
)

from memproxy.demo.scripted_model import Reply
from tests.fakes.memory_client import memory_client, record
from tests.fakes.serving import Serve, until

pytestmark = pytest.mark.filterwarnings("ignore:get_working_memory is deprecated:DeprecationWarning")

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def message(role: str, content: str, *, minute: int = 0) -> MemoryMessage:
    """A message as a user of the client makes it."""
    return MemoryMessage(role=role, content=content, created_at=NOON + timedelta(minutes=minute))


def session(name: str, *messages: MemoryMessage, **given: Any) -> WorkingMemory:
    """A session as a user of the client makes it."""
    return WorkingMemory(session_id=name, messages=list(messages), **given)


# ---- sessions ----


async def test_a_session_is_put_got_listed_and_deleted(serve: Serve) -> None:
    """What comes back is what was sent."""
    sent = session(
        "trip", message("user", "I am off to Lisbon."), message("assistant", "Have fun!", minute=1),
        data={"budget": 900, "stops": ["Porto"]}, context="They travel a lot.", user_id="alice", namespace="travel",
    )  # fmt: skip
    async with serve() as served, memory_client(served) as client:
        put = await client.put_working_memory("trip", sent)
        got = await client.get_working_memory("trip", user_id="alice", namespace="travel")
        for answer in (put, got):
            assert answer.session_id == "trip"
            assert [(one.role, one.content, one.id) for one in answer.messages] == [
                (one.role, one.content, one.id) for one in sent.messages
            ]
            assert [one.created_at for one in answer.messages] == [one.created_at for one in sent.messages]
            assert (answer.data, answer.context) == (sent.data, sent.context)
            assert (answer.user_id, answer.namespace) == ("alice", "travel")
        listed = await client.list_sessions(user_id="alice", namespace="travel")
        assert (listed.sessions, listed.total) == (["trip"], 1)
        assert (await client.list_sessions(user_id="bob")).sessions == []
        assert (await client.delete_working_memory("trip", namespace="travel", user_id="alice")).status == "ok"
        with pytest.raises(MemoryNotFoundError):
            await client.get_working_memory("trip", user_id="alice", namespace="travel")
        assert (await client.delete_working_memory("trip", namespace="travel", user_id="alice")).status == "ok"
        assert (await client.list_sessions(user_id="alice", namespace="travel")).total == 0


async def test_the_user_in_the_query_counts(serve: Serve) -> None:
    """The client sends it there, while the body names nobody; the reference loses it."""
    async with serve() as served, memory_client(served, default_namespace="app") as client:
        await client.put_working_memory("s", session("s", message("user", "Hello.")), user_id="alice")
        got = await client.get_working_memory("s", user_id="alice")
        assert (got.user_id, got.namespace) == ("alice", "app")
        with pytest.raises(MemoryNotFoundError):
            await client.get_working_memory("s", user_id="bob")


async def test_a_session_is_made_once(serve: Serve) -> None:
    """The client tells by 404 whether it is new."""
    strategy = MemoryStrategyConfig(strategy="summary", config={"max_summary_length": 100})
    async with serve() as served, memory_client(served) as client:
        created, made = await client.get_or_create_working_memory(
            "s", user_id="alice", namespace="n", long_term_memory_strategy=strategy
        )
        again, same = await client.get_or_create_working_memory("s", user_id="alice", namespace="n")
    assert (created, again) == (True, False)
    assert made.session_id == same.session_id == "s"
    assert same.long_term_memory_strategy == strategy


async def test_the_answer_of_older_servers_can_be_chosen(serve: Serve) -> None:
    """Clients that were written for it expect a missing session to be an empty one."""
    async with serve(legacy_unsaved_sessions=True) as served, memory_client(served) as client:
        missing = await client.get_working_memory("s")
        assert (missing.messages, missing.unsaved) == ([], True)
        created, _ = await client.get_or_create_working_memory("s")
        assert created
        assert (await client.get_working_memory("s")).unsaved is not True


async def test_messages_are_appended(serve: Serve) -> None:
    """The client reads the session, adds to it and writes it back."""
    async with serve() as served, memory_client(served) as client:
        await client.put_working_memory("s", session("s", message("user", "One."), user_id="alice"))
        added: list[Any] = [{"role": "assistant", "content": "Two.", "id": "m2"}, message("user", "Three.", minute=5)]
        answer = await client.append_messages_to_working_memory("s", added, user_id="alice")
        got = await client.get_working_memory("s", user_id="alice")
    assert [one.content for one in answer.messages] == ["One.", "Two.", "Three."]
    assert got.messages == answer.messages
    assert got.messages[1].id == "m2"


async def test_data_is_set_and_merged(serve: Serve) -> None:
    """Messages stay when only the data changes."""
    async with serve() as served, memory_client(served) as client:
        await client.put_working_memory(
            "s", session("s", message("user", "One."), data={"a": {"x": 1}}, ttl_seconds=900)
        )
        strategies: tuple[tuple[Literal["replace", "merge", "deep_merge"], dict[str, Any]], ...] = (
            ("deep_merge", {"a": {"x": 1, "y": 2}}),
            ("merge", {"a": {"y": 2}}),
            ("replace", {"a": {"y": 2}}),
        )
        for strategy, expected in strategies:
            answer = await client.update_working_memory_data("s", {"a": {"y": 2}}, merge_strategy=strategy)
            assert answer.data == expected, strategy
        answer = await client.set_working_memory_data("s", {"b": [1, None, {"c": "d"}]})
        assert answer.data == {"b": [1, None, {"c": "d"}]}
        got = await client.get_working_memory("s")
        assert [one.content for one in got.messages] == ["One."]
        assert got.ttl_seconds == 900  # left out by these calls, which must not mean: for good


async def test_memories_beside_a_session_are_promoted(serve: Serve) -> None:
    """They are found by a search once the session was stored, under the session's user."""
    async with serve() as served, memory_client(served, default_namespace="app") as client:
        await client.put_working_memory("s", session("s", namespace="app"))
        await client.add_memories_to_working_memory("s", [record("Likes green tea", id="tea")])
        answer = await client.add_memories_to_working_memory("s", [record("Lives in Porto", id="porto")])
        assert [memory.id for memory in answer.memories] == ["tea", "porto"]
        await served.settled()
        found = await client.search_long_term_memory("Which tea?")
        assert found.memories[0].id == "tea"
        assert found.memories[0].session_id == "s"
        replaced = await client.add_memories_to_working_memory("s", [record("Has a cat", id="cat")], replace=True)
        assert [memory.id for memory in replaced.memories] == ["cat"]


async def test_promoting_by_hand_does_no_harm(serve: Serve) -> None:
    """It creates what was promoted already."""
    async with serve() as served, memory_client(served) as client:
        made = [record("Likes green tea", id="tea"), record("Lives in Porto", id="porto")]
        await client.add_memories_to_working_memory("s", made)
        await served.settled()
        assert (await client.promote_working_memories_to_long_term("s", memory_ids=["tea"])).status == "ok"
        assert (await client.promote_working_memories_to_long_term("s")).status == "ok"
        assert (await client.promote_working_memories_to_long_term("other")).status == "ok"
        await served.settled()
        found = await client.search_long_term_memory("tea or Porto")
        assert sorted(memory.id for memory in found.memories) == ["porto", "tea"]


async def test_any_model_and_window_are_taken(serve: Serve) -> None:
    """The reference refuses models that came after it; windows come as strings."""
    config = {"default_model_name": "a-model-of-next-year", "default_context_window_max": 500}
    async with serve() as served, memory_client(served, **config) as client:
        long = session("s", *(message("user", f"Sentence {n}. " + "word " * 30, minute=n) for n in range(30)))
        await client.put_working_memory("s", long)
        got = await client.get_working_memory("s")
    assert 0 < len(got.messages) < 30
    assert got.messages[-1].content.startswith("Sentence 29.")
    assert 0 < (got.context_percentage_total_used or 0) <= 100


# ---- the proxy's sessions ----


async def test_what_the_proxy_recorded_is_there(serve: Serve) -> None:
    """An agent's conversation can be read by code, under the names that its address has."""
    async with serve(lambda _: Reply(text="Bon voyage!")) as served, memory_client(served) as client:
        async with served.openai("/u/alice/s/chat-1/v1") as agent:
            await agent.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "I am off to Lisbon tomorrow."}]
            )
        await served.settled()
        got = await client.get_working_memory("chat-1", user_id="alice")
        assert [(one.role, one.content) for one in got.messages] == [
            ("user", "I am off to Lisbon tomorrow."),
            ("assistant", "Bon voyage!"),
        ]
        assert (await client.list_sessions(user_id="alice")).sessions == ["chat-1"]
        found = await client.search_long_term_memory("Who travels to Lisbon?", user_id={"eq": "alice"})
        assert "Lisbon" in found.memories[0].text
        with pytest.raises(MemoryNotFoundError):
            await client.get_working_memory("chat-1")


# ---- prompts ----


def texts(prompt: dict[str, Any]) -> list[tuple[str, str]]:
    """The prompt's messages, as role and text."""
    return [(one["role"], one["content"]["text"]) for one in prompt["messages"]]


async def test_a_prompt_has_history_and_memories(serve: Serve) -> None:
    """One call gives what an agent needs to send."""
    async with serve() as served, memory_client(served, default_namespace="app") as client:
        await client.create_long_term_memory([record("Alice likes green tea", user_id="alice", topics=["drinks"])])
        await client.create_long_term_memory([record("Bob likes red wine", user_id="bob", topics=["drinks"])])
        sent = session("s", message("user", "Hi."), message("assistant", "Hello!", minute=1), context="A cafe's guest.")
        await client.put_working_memory("s", sent, user_id="alice")
        prompt = await client.memory_prompt(
            "What should I drink?",
            session_id="s",
            user_id="alice",
            context_window_max=8_000,
            long_term_search={"limit": 5, "topics": {"any": ["drinks"]}, "user_id": {"eq": "alice"}},
            optimize_query=True,
        )
        said = texts(prompt)
        assert said[0][0] == "system"
        assert "A cafe's guest." in said[0][1]
        assert said[1:3] == [("user", "Hi."), ("assistant", "Hello!")]
        assert "Alice likes green tea" in said[3][1]
        assert "Bob" not in str(said)
        assert said[-1] == ("user", "What should I drink?")
        assert [memory["text"] for memory in prompt["long_term_memories"]] == ["Alice likes green tea"]


async def test_a_prompt_from_long_term_memory_alone(serve: Serve) -> None:
    """All the client's filters go along."""
    async with serve() as served, memory_client(served) as client:
        await client.create_long_term_memory(
            [
                record("Alice likes green tea", user_id="alice", topics=["drinks"], entities=["tea"], session_id="s"),
                record("Alice likes red wine", user_id="alice", topics=["wine"]),
            ]
        )
        prompt = await client.hydrate_memory_prompt(
            "What does Alice like?",
            session_id={"eq": "s"},
            namespace={},
            topics={"all": ["drinks"]},
            entities={"any": ["tea"]},
            created_at={"gte": "2020-01-01T00:00:00Z"},
            last_accessed={"gte": "2020-01-01T00:00:00Z"},
            user_id={"eq": "alice"},
            distance_threshold=0.9,
            memory_type={"eq": "semantic"},
            limit=3,
        )
    assert [memory["text"] for memory in prompt["long_term_memories"]] == ["Alice likes green tea"]
    assert texts(prompt)[-1] == ("user", "What does Alice like?")


# ---- summary views ----


async def test_summary_views(serve: Serve) -> None:
    """All seven operations, and the task."""
    model = {"extraction_model": "small", "upstream_api_key": "sk-background"}
    answer = Reply(text='{"summary": "Likes tea."}')
    async with serve(lambda _: answer, **model) as served, memory_client(served) as client:
        await client.create_long_term_memory([record("Likes tea", user_id="alice", namespace="n")])
        view = await client.create_summary_view(
            CreateSummaryViewRequest(name="people", source="long_term", group_by=["user_id"])
        )
        assert [one.id for one in await client.list_summary_views()] == [view.id]
        assert await client.get_summary_view(view.id) == view
        made = await client.run_summary_view_partition(view.id, {"user_id": "alice"})
        assert (made.summary, made.memory_count, made.group) == ("Likes tea.", 1, {"user_id": "alice"})
        assert await client.list_summary_view_partitions(view.id, user_id="alice") == [made]
        assert await client.list_summary_view_partitions(view.id, user_id="bob") == []
        task = await client.run_summary_view(view.id, force=True)
        await until(lambda: _has_ended(client, task.id))
        done = await client.get_task(task.id)
        assert done is not None
        assert (done.status, done.view_id) == ("success", view.id)
        assert (await client.delete_summary_view(view.id)).status == "ok"
        assert await client.get_summary_view(view.id) is None
        assert await client.get_task("unknown") is None


async def _has_ended(client: MemoryAPIClient, task_id: str) -> bool:
    task = await client.get_task(task_id)
    return task is not None and task.status in {"success", "failed"}
