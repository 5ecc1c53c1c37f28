"""Memory tools offered to the model: added to the request's tools, their calls answered inside."""

from dataclasses import dataclass

from memproxy.proxy.memory_tool_forms import ARGUMENTS, definitions
from memproxy.proxy.memory_tools import MemoryTools
from memproxy.records import Scope, SessionKey, ToolAnswer, ToolCall
from memproxy.wire.dialect import Dialect

OFFERED_TOKENS = 1_100
"""What the definitions take of the window."""


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """The source of answers for one request."""

    tools: MemoryTools
    scope: Scope
    session: SessionKey

    def may_answer(self, name: str) -> bool:
        """Whether it is one of the memory tools."""
        return is_memory_tool(name)

    async def answer(self, call: ToolCall) -> ToolAnswer | None:
        """Carry the call out; what goes wrong is told to the model."""
        return await self.tools.answer(call, scope=self.scope, session=self.session)


def is_memory_tool(name: str) -> bool:
    """A memory tool's call is never the agent's."""
    return name in ARGUMENTS


def with_memory_tools(dialect: Dialect, body: bytes) -> bytes:
    """The request with the memory tools behind the agent's own, always the same and in the same order."""
    return dialect.with_tools(body, definitions())
