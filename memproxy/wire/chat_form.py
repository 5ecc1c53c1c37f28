"""A stored message of any dialect in the form of chat completions, for whoever reads sessions and not requests. Pure.

A session keeps each message in its client's own format. What code, summaries and learning want of it is the same in
all of them: who says what, which tools are called, what they gave. To be read only; nothing is sent from this form.
"""

from collections.abc import Mapping
from typing import Any

from memproxy.records import JsonObject
from memproxy.wire import anthropic_messages, response_items
from memproxy.wire.chat_completions import message_text

_BLOCKS = frozenset({anthropic_messages.CALL, anthropic_messages.RESULT, *anthropic_messages.THOUGHTS})


def chat_form(message: JsonObject) -> JsonObject:
    """The message, with its role, words, calls and results where chat completions have them."""
    if "type" in message and response_items.type_of(message) != "message":
        return response_items.as_chat([message])[0][1]
    if any(anthropic_messages.type_of(block) in _BLOCKS for block in anthropic_messages.blocks_of(message)):
        read = [each for _, each in anthropic_messages.as_chat([message])]
        results = [each for each in read if each["role"] == "tool"]
        if not results:
            return read[0]
        words = "\n".join(text for each in read if (text := message_text(each)))
        return {**results[0], "content": words}
    return message


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message of any dialect, or what its tool gave."""
    return message_text(chat_form(dict(message)))
