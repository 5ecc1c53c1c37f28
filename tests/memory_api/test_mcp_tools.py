"""The table of tools."""

import pytest

from memproxy.memory_api.mcp_tools import TOOLS


def test_the_tools_are_agent_memory_servers() -> None:
    """A prompt that was written for its tools names these."""
    assert set(TOOLS) == {
        "get_current_datetime",
        "create_long_term_memories",
        "search_long_term_memory",
        "memory_prompt",
        "set_working_memory",
        "get_working_memory",
        "get_long_term_memory",
        "edit_long_term_memory",
        "delete_long_term_memories",
        "compact_long_term_memories",
    }


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_says_what_it_is_for(name: str) -> None:
    """The host's model chooses by these words alone, and its user is asked before something is destroyed."""
    tool = TOOLS[name]
    assert len(tool.description) > 20
    assert tool.description.endswith(".")
    assert not tool.destroys or not tool.reads
