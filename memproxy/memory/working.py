"""How a session looks to code: its messages as plain text, and how full its window is. Pure.

The proxy keeps messages whole, with calls, parts and names; the memory API knows a role and a text. Source of the
windows and shares: agent-memory-server.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memproxy.records import JsonObject
from memproxy.tokens import Windows
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_form import chat_form

FULL = 0.7
"""Of the window: a session that takes more is summarised in the background."""


def shown_text(message: Mapping[str, Any]) -> str:
    """What a message says, as text: its words, a name for each part that is none, and the calls that it makes."""
    content = message.get("content")
    if isinstance(content, str) and content and not (message.get("tool_calls") or message.get("function_call")):
        return content  # nearly always
    message = chat_form(dict(message))
    words = chat.message_text(message)
    if not words and isinstance(refusal := message.get("refusal"), str):
        words = refusal
    return "\n".join(line for line in (words, *_other_parts(message), *_calls(message)) if line)


def shown_role(message: Mapping[str, Any]) -> str:
    """Whose message it is, in the words of chat completions: what a tool gave is `tool`, in whatever form it came."""
    is_plain = isinstance(message.get("content"), str) and "type" not in message
    return str((message if is_plain else chat_form(dict(message))).get("role"))


def _other_parts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return [f"[{part.get('type', 'part')}]" for part in parts if isinstance(part, dict) and "text" not in part]


def _calls(message: Mapping[str, Any]) -> list[str]:
    calls = message.get("tool_calls")
    found = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions: list[Any] = [call.get("function") or call.get("custom") for call in found]
    functions.append(message.get("function_call"))
    return [f"[calls {_call(function)}]" for function in functions if isinstance(function, dict)]


def _call(function: JsonObject) -> str:
    arguments = function.get("arguments", function.get("input"))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return f"{function.get('name')}({text})"


@dataclass(frozen=True, slots=True)
class Window:
    """The window that code wants a session to fit into."""

    tokens: int
    is_given: bool
    """Code has said so; otherwise it is the default one."""

    def shares(self, tokens: int) -> tuple[float | None, float | None]:
        """How much of the window these tokens take, and how much of what may be taken before a summary; per cent.

        None where no window was given.
        """
        if not self.is_given:
            return None, None
        return _per_cent(tokens, self.tokens), _per_cent(tokens, self.summarised_from)

    @property
    def summarised_from(self) -> int:
        """The tokens from which on a session is summarised."""
        return max(1, int(FULL * self.tokens))


def window_of(windows: Windows, *, model: str | None, most: int | None) -> Window:
    """The window of a request: what it says in tokens counts more than the model that it names."""
    if most is not None:
        return Window(most, is_given=True)
    return Window(windows.window_of(model or ""), is_given=model is not None)


def _per_cent(tokens: int, of: int) -> float:
    return min(100.0, 100.0 * tokens / of)
