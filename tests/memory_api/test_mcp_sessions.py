"""The tools on conversations, called as a host calls them."""

from typing import Any

import pytest

from tests.fakes.mcp_clients import called, mcp_client, refused
from tests.fakes.memory_client import memory_client
from tests.fakes.serving import Serve

pytestmark = pytest.mark.filterwarnings("ignore:get_working_memory is deprecated:DeprecationWarning")


def roles_and_words(session: dict[str, Any]) -> list[tuple[str, str]]:
    """What was said, by whom."""
    return [(one["role"], one["content"]) for one in session["messages"]]


async def test_a_conversation_is_kept_and_read(serve: Serve) -> None:
    """What one host has put down another goes on with, and code sees the same."""
    async with serve() as served, memory_client(served) as rest:
        async with mcp_client(served, "/u/alice/mcp") as client:
            assert "not found" in await refused(client, "get_working_memory", session_id="trip")
            given: Any = {
                "messages": [{"role": "user", "content": "To Porto."}, {"role": "assistant", "content": "By train?"}],
                "data": {"step": 1},
                "context": "They plan a trip.",
            }
            await called(client, "set_working_memory", session_id="trip", **given)
        async with mcp_client(served, "/u/alice/mcp") as client:
            known = await called(client, "get_working_memory", session_id="trip")
            assert roles_and_words(known) == [("user", "To Porto."), ("assistant", "By train?")]
            assert known["data"] == {"step": 1}
            assert known["context"] == "They plan a trip."
            assert known["user_id"] == "alice"
            assert 0 < known["ttl_seconds"] <= 3_600
            last = await called(client, "get_working_memory", session_id="trip", recent_messages_limit=1)
            assert roles_and_words(last) == [("assistant", "By train?")]
        session = await rest.get_working_memory("trip", user_id="alice")
        assert [message.content for message in session.messages] == ["To Porto.", "By train?"]


async def test_what_is_left_out_stays(serve: Serve) -> None:
    """A model that notes one thing does not wipe the rest, nor make a lasting conversation end in an hour."""
    async with serve() as served, memory_client(served) as rest, mcp_client(served, "/u/alice/mcp") as client:
        messages: Any = [{"role": "user", "content": "To Porto."}]
        memories: Any = [{"text": "Alice likes trains.", "topics": ["travel"]}]
        await called(client, "set_working_memory", session_id="a", messages=messages, memories=memories, ttl_seconds=90)
        more: Any = [{"text": "Alice has a dog."}]
        after = await called(client, "set_working_memory", session_id="a", data={"step": 2}, memories=more)
        assert roles_and_words(after) == [("user", "To Porto.")]
        assert {memory["text"] for memory in after["memories"]} == {"Alice likes trains.", "Alice has a dog."}
        assert after["data"] == {"step": 2}
        assert 0 < after["ttl_seconds"] <= 90
        await rest.append_messages_to_working_memory("b", [{"role": "user", "content": "Hi."}], user_id="alice")
        lasting = await called(client, "set_working_memory", session_id="b", context="A greeting.")
        assert roles_and_words(lasting) == [("user", "Hi.")]
        assert "ttl_seconds" not in lasting


async def test_messages_that_are_given_take_the_place_of_the_others(serve: Serve) -> None:
    """A model that has read a conversation may shorten it."""
    async with serve() as served, mcp_client(served, "/u/alice/mcp") as client:
        many: Any = [{"role": "user", "content": str(number)} for number in range(4)]
        await called(client, "set_working_memory", session_id="a", messages=many)
        known = await called(client, "get_working_memory", session_id="a")
        kept = [{name: known["messages"][3][name] for name in ("id", "role", "content", "created_at")}]
        after = await called(client, "set_working_memory", session_id="a", messages=kept, context="0 to 2.")
        assert roles_and_words(after) == [("user", "3")]


async def test_facts_beside_a_conversation_are_kept_for_good(serve: Serve) -> None:
    """They are found by a search when the conversation is long gone."""
    async with serve() as served, mcp_client(served, "/u/alice/mcp") as client:
        memories: Any = [{"text": "Alice likes trains.", "memory_type": "semantic"}]
        await called(client, "set_working_memory", session_id="a", memories=memories)
        await served.settled()
        found = await called(client, "search_long_term_memory", text="trains")
        assert [one["text"] for one in found["memories"]] == ["Alice likes trains."]


async def test_a_prompt_has_history_and_memories(serve: Serve) -> None:
    """One call gives a host all that its model should see before a message."""
    async with serve() as served, mcp_client(served, "/u/alice/mcp") as client:
        memories: Any = [{"text": "Alice likes slow trains to Porto."}, {"text": "Alice has a dog."}]
        await called(client, "create_long_term_memories", memories=memories)
        messages: Any = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi Alice."}]
        await called(client, "set_working_memory", session_id="a", messages=messages, context="A greeting.")
        told = await called(client, "memory_prompt", query="Which trains to Porto do I like?", session_id="a")
        roles = [message["role"] for message in told["messages"]]
        assert roles == ["system", "user", "assistant", "system", "user"]
        assert "A greeting." in told["messages"][0]["content"]
        assert "slow trains" in told["messages"][3]["content"]
        assert told["messages"][-1]["content"] == "Which trains to Porto do I like?"
        assert [memory["text"] for memory in told["long_term_memories"]] == ["Alice likes slow trains to Porto."]
        alone = await called(client, "memory_prompt", query="dog", limit=1)
        assert [memory["text"] for memory in alone["long_term_memories"]] == ["Alice has a dog."]
        none = await called(client, "memory_prompt", query="dog", topics="nothing")
        assert none["long_term_memories"] == []


async def test_conversations_are_their_users(serve: Serve) -> None:
    """The same name is another conversation for another user, namespace or tenant."""
    async with serve(tenancy="key") as served:
        places = [("one", "/u/alice/mcp"), ("one", "/u/bob/mcp"), ("one", "/u/alice/n/x/mcp"), ("two", "/u/alice/mcp")]
        for key, path in places:
            async with mcp_client(served, path, authorization=f"Bearer {key}") as client:
                assert "not found" in await refused(client, "get_working_memory", session_id="a")
                messages: Any = [{"role": "user", "content": f"{key}{path}"}]
                await called(client, "set_working_memory", session_id="a", messages=messages)
        for key, path in places:
            async with mcp_client(served, path, authorization=f"Bearer {key}") as client:
                known = await called(client, "get_working_memory", session_id="a")
                assert roles_and_words(known) == [("user", f"{key}{path}")]
