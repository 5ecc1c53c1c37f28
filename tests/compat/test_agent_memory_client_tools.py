"""agent-memory-client 0.14.0, unmodified: its tools, given to a model and carried out against memproxy."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from agent_memory_client import MemoryAPIClient
from agent_memory_client.models import MemoryRecord

from tests.fakes.memory_client import memory_client, record
from tests.fakes.serving import Serve

pytestmark = [
    pytest.mark.filterwarnings("ignore:get_working_memory is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Tool name:DeprecationWarning"),
]

FORMS: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "openai": lambda name, arguments: {
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    },
    "legacy": lambda name, arguments: {"name": name, "arguments": json.dumps(arguments)},
    "anthropic": lambda name, arguments: {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments},
    "langchain": lambda name, arguments: {"id": "1", "name": name, "args": arguments},
    "generic": lambda name, arguments: {"id": "1", "name": name, "arguments": arguments},
}
"""How models' calls look, by provider."""


def test_both_lists_of_tools_are_the_same() -> None:
    """Nine tools, for either provider."""
    openai = [tool.to_dict() for tool in MemoryAPIClient.get_all_memory_tool_schemas()]
    anthropic = [tool.to_dict() for tool in MemoryAPIClient.get_all_memory_tool_schemas_anthropic()]
    assert len(openai) == 9
    assert [tool["function"]["name"] for tool in openai] == [tool["name"] for tool in anthropic]


def test_each_tool_has_its_schema() -> None:
    """Single ones can be offered, too."""
    cls = MemoryAPIClient
    pairs = [
        (cls.get_memory_search_tool_schema(), cls.get_memory_search_tool_schema_anthropic()),
        (cls.get_working_memory_tool_schema(), cls.get_working_memory_tool_schema_anthropic()),
        (
            cls.get_lazily_create_long_term_memory_tool_schema(),
            cls.get_lazily_create_long_term_memory_tool_schema_anthropic(),
        ),
        (cls.get_update_memory_data_tool_schema(), cls.get_update_memory_data_tool_schema_anthropic()),
        (cls.get_long_term_memory_tool_schema(), cls.get_long_term_memory_tool_schema_anthropic()),
        (
            cls.get_eagerly_create_long_term_memory_tool_schema(),
            cls.get_eagerly_create_long_term_memory_tool_schema_anthropic(),
        ),
        (cls.edit_long_term_memory_tool_schema(), cls.edit_long_term_memory_tool_schema_anthropic()),
        (cls.delete_long_term_memories_tool_schema(), cls.delete_long_term_memories_tool_schema_anthropic()),
        (cls.get_current_datetime_tool_schema(), cls.get_current_datetime_tool_schema_anthropic()),
    ]
    for openai, anthropic in pairs:
        assert openai.to_dict()["function"]["name"] == anthropic.to_dict()["name"]


@pytest.mark.parametrize("form", FORMS)
async def test_a_models_calls_are_carried_out(serve: Serve, form: str) -> None:
    """Create, search, get, edit, delete, as a model would ask for them, in each provider's form."""
    async with serve() as served, memory_client(served, default_namespace="app") as client:

        async def call(name: str, **arguments: Any) -> Any:
            result = await client.resolve_tool_call(FORMS[form](name, arguments), session_id="s", user_id="alice")
            assert result["success"], result["error"]
            assert result["function_name"] == name
            assert result["formatted_response"]
            return result["result"]

        created = await call(
            "eagerly_create_long_term_memory",
            memories=[
                {"text": "Alice likes green tea", "memory_type": "semantic", "topics": ["drinks"]},
                {"text": "Alice moved to Porto", "memory_type": "episodic", "event_date": "2024-05-01T00:00:00Z"},
            ],
        )
        assert created["status"] == "ok"
        found = await call("search_memory", query="Which tea does she like?", topics=["drinks"], user_id="alice")
        assert [memory["text"] for memory in found["memories"]] == ["Alice likes green tea"]
        assert 0 < found["memories"][0]["relevance_score"] <= 1
        assert (found["total_found"], found["has_more"]) == (1, False)

        memory_id = found["memories"][0]["id"]
        got = cast("MemoryRecord", (await call("get_long_term_memory", memory_id=memory_id))["memory"])
        assert (got.text, got.user_id, got.namespace) == ("Alice likes green tea", "alice", "app")
        edited = await call("edit_long_term_memory", memory_id=memory_id, text="Alice likes black tea")
        assert edited["memory"].text == "Alice likes black tea"
        deleted = await call("delete_long_term_memories", memory_ids=[memory_id])
        assert deleted["status"] == "ok, deleted 1 memories"
        assert (await call("search_memory", query="tea", topics=["drinks"]))["memories"] == []
        assert (await call("get_current_datetime"))["iso_utc"].endswith("Z")


@pytest.mark.parametrize("form", FORMS)
async def test_a_models_calls_about_the_session_are_carried_out(serve: Serve, form: str) -> None:
    """Its data, and memories that are stored with it."""
    async with serve() as served, memory_client(served, default_namespace="app") as client:

        async def call(name: str, **arguments: Any) -> Any:
            result = await client.resolve_tool_call(FORMS[form](name, arguments), session_id="s")
            assert result["success"], result["error"]
            found = cast("dict[str, Any]", result["result"])
            assert "error" not in found
            return found

        assert (await call("get_or_create_working_memory"))["created"] is True
        await call("update_working_memory_data", data={"trip": {"to": "Porto"}})
        await call("update_working_memory_data", data={"trip": {"days": 3}}, merge_strategy="deep_merge")
        await call("lazily_create_long_term_memory", text="Likes port wine", memory_type="semantic", topics=["drinks"])
        state = await call("get_or_create_working_memory")
        assert state["created"] is False
        assert state["data"] == {"trip": {"to": "Porto", "days": 3}}
        assert [memory["text"] for memory in state["memories"]] == ["Likes port wine"]
        await served.settled()
        found = await call("search_memory", query="Which wine?", topics=["drinks"])
        assert [memory["text"] for memory in found["memories"]] == ["Likes port wine"]


async def test_several_calls_at_once(serve: Serve) -> None:
    """Models ask for several tools in one answer; a wrong one does not spoil the others."""
    async with serve() as served, memory_client(served) as client:
        await client.create_long_term_memory([record("Likes green tea")])
        calls = [FORMS["openai"]("search_memory", {"query": "tea"}), FORMS["openai"]("no_such_tool", {})]
        first, second = await client.resolve_tool_calls(calls, session_id="s")
        assert (first["success"], second["success"]) == (True, False)
        plain = [{"name": "search_memory", "arguments": {"query": "tea", "max_results": 1}}]
        (third,) = await client.resolve_function_calls(plain, session_id="s")
        assert third["result"] is not None
        assert third["result"]["memories"][0]["text"] == "Likes green tea"
        single = await client.resolve_function_call("get_long_term_memory", {"memory_id": "unknown"}, session_id="s")
        assert single["success"] is False


@pytest.mark.parametrize("name", ["get_working_memory", "add_memory_to_working_memory", "create_long_term_memory"])
async def test_deprecated_names_still_work(serve: Serve, name: str) -> None:
    """Prompts of older agents name them."""
    arguments: dict[str, dict[str, Any]] = {
        "get_working_memory": {},
        "add_memory_to_working_memory": {"text": "Likes tea", "memory_type": "semantic"},
        "create_long_term_memory": {"memories": [{"text": "Likes tea", "memory_type": "semantic"}]},
    }
    async with serve() as served, memory_client(served) as client:
        result = await client.resolve_function_call(name, arguments[name], session_id="s")
        assert result["success"], result["error"]


async def test_the_methods_behind_the_tools(serve: Serve) -> None:
    """They can be called without a model; they never raise, and say what went wrong."""
    async with serve() as served, memory_client(served, default_namespace="app") as client:
        made = await client.get_or_create_working_memory_tool("s")
        assert made["created"] is True
        added = await client.add_memory_tool("s", "Likes green tea", "semantic", topics=["drinks"], entities=["tea"])
        assert added["success"] is True
        updated = await client.update_memory_data_tool("s", {"cup": "large"})
        assert updated["success"] is True
        state = await client.get_working_memory_tool("s")
        assert (state["memory_count"], state["data"]) == (1, {"cup": "large"})
        await served.settled()
        found = await client.search_memory_tool("tea", topics=["drinks"], entities=["tea"], memory_type="semantic")
        assert [memory["text"] for memory in found["memories"]] == ["Likes green tea"]
        assert (await client.search_memory_tool("tea", min_relevance=0.0, max_results=1, user_id="zoe"))[
            "memories"
        ] == []
        near = await client.search_memory_tool("Likes green tea", min_relevance=0.9)
        assert len(near["memories"]) == 1


def test_calls_are_recognised() -> None:
    """Any provider's form is read as the same call."""
    for form, make in FORMS.items():
        parsed = MemoryAPIClient.parse_tool_call(make("search_memory", {"query": "tea"}))
        assert (parsed["name"], parsed["arguments"]) == ("search_memory", {"query": "tea"}), form
    one = {"query": "tea"}
    assert MemoryAPIClient.parse_openai_function_call(FORMS["legacy"]("a", one))["arguments"] == one
    assert MemoryAPIClient.parse_openai_tool_call(FORMS["openai"]("a", one))["arguments"] == one
    assert MemoryAPIClient.parse_anthropic_tool_use(FORMS["anthropic"]("a", one))["arguments"] == one
