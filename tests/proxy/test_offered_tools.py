"""Memory tools offered to the model."""

import json

from memproxy.proxy.memory_tool_forms import PREFIX, definitions
from memproxy.proxy.offered_tools import OFFERED_TOKENS, is_memory_tool, with_memory_tools
from memproxy.tokens import count_tokens
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS


def test_they_stand_behind_the_agents_own() -> None:
    """The agent's tools keep their bytes and their places; nothing else of the request changes."""
    body = b'{"n": 1.0, "tools": [ {"type":"function","function":{"name":"x","n":1.0}} ], "unknown": {"a": 1e400}}'
    offered = with_memory_tools(CHAT_COMPLETIONS, body)
    assert b'{"type":"function","function":{"name":"x","n":1.0}}' in offered
    assert b'"unknown":{"a": 1e400}' in offered
    names = [tool["function"]["name"] for tool in json.loads(offered)["tools"]]
    assert names == ["x", *(definition["function"]["name"] for definition in definitions())]


def test_a_request_without_tools_gets_them() -> None:
    """An agent that has no tools at all can have a memory that the model works with."""
    for body in (b'{"messages": []}', b'{"tools": null}'):
        assert len(json.loads(with_memory_tools(CHAT_COMPLETIONS, body))["tools"]) == len(definitions())


def test_names_can_not_collide_and_size_is_as_reckoned() -> None:
    """The budget counts what they really take."""
    assert all(definition["function"]["name"].startswith(PREFIX) for definition in definitions())
    assert all(is_memory_tool(definition["function"]["name"]) for definition in definitions())
    assert not is_memory_tool("search_memory")
    assert count_tokens(json.dumps(definitions(), separators=(",", ":"))) <= OFFERED_TOKENS
