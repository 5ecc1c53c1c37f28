"""The tools of the MCP server as a table: named as agent-memory-server's."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from memproxy.memory_api import mcp_forms as forms
from memproxy.memory_api import mcp_memories as memories
from memproxy.memory_api import mcp_sessions as sessions
from memproxy.memory_api.requests import Call
from memproxy.records import JsonObject


@dataclass(frozen=True, slots=True)
class McpTool:
    """One tool."""

    description: str
    form: type[forms.ToolInput]
    run: Callable[[Call, Any], Awaitable[JsonObject]]
    """Takes the arguments in their form; raises MemproxyError and ValidationError."""
    reads: bool = True
    """It changes nothing."""
    destroys: bool = False
    """It can make something unrecoverable."""


TOOLS: Mapping[str, McpTool] = MappingProxyType(
    {
        "get_current_datetime": McpTool(
            "Tell the current date, time and weekday. Use it before writing down a date that was given as 'yesterday' "
            "or 'next week'.",
            forms.Now,
            memories.now,
        ),
        "create_long_term_memories": McpTool(
            "Keep facts for later conversations: what lasts, such as preferences and circumstances, and what happens "
            "at a time. Write each so that it is understood by itself, with names in place of 'he' and dates in place "
            "of 'tomorrow'. No secrets. What is known already word for word is not kept twice.",
            forms.Create,
            memories.create,
            reads=False,
        ),
        "search_long_term_memory": McpTool(
            "Search what is remembered from earlier conversations, by meaning and by words. Ask with a short "
            "statement of what you want to know. Filters that are given must all hold; without a text the newest "
            "memories are listed.",
            forms.Search,
            memories.search,
        ),
        "memory_prompt": McpTool(
            "Put together what a model should see before a user's message: the conversation so far, and what is "
            "remembered from earlier ones. Without filters and limits, just what memproxy itself would put there.",
            forms.Prompt,
            sessions.prompt,
        ),
        "set_working_memory": McpTool(
            "Keep the state of a conversation: its messages, a summary, data by name, and facts that are to be kept "
            "for good. What is left out stays as it is; messages that are given take the place of those it has.",
            forms.SetSession,
            sessions.set_session,
            reads=False,
            destroys=True,
        ),
        "get_working_memory": McpTool(
            "Read a conversation: its messages, summary, data and facts.",
            forms.GetSession,
            sessions.get_session,
        ),
        "get_long_term_memory": McpTool("Read one memory by its id.", forms.One, memories.get),
        "edit_long_term_memory": McpTool(
            "Correct or complete one memory. Only what is given changes. Search for its id first.",
            forms.Edit,
            memories.edit,
            reads=False,
            destroys=True,
        ),
        "delete_long_term_memories": McpTool(
            "Delete memories for good, by their ids: when the user asks for it, or when they are wrong.",
            forms.Delete,
            memories.delete,
            reads=False,
            destroys=True,
        ),
        "compact_long_term_memories": McpTool(
            "Merge memories that say the same. It is done by itself now and then; seldom needed.",
            forms.Whose,
            memories.compact,
            reads=False,
            destroys=True,
        ),
    }
)
"""Every tool by its name, in the order in which they are told."""
