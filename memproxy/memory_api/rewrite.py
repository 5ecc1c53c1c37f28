"""Have a model turn a message into a query for a search of memories. The message itself is what is left if it can't."""

import asyncio
import logging

from memproxy.errors import ModelCallError
from memproxy.llm import JsonModel

log = logging.getLogger(__name__)

REWRITE_S = 3.0
"""Whoever searches waits for it, and the message itself mostly finds as much."""

MIN_CHARS = 2
"""What is shorter has nothing to be rewritten."""

_TASK = """\
Somebody's message follows. What an assistant remembers about them is to be searched for whatever helps to answer it.
Write the search query: the message's subject in plain words, as a short statement or a list of key terms. Keep names,
numbers and quoted phrases as they are. Leave out greetings and requests, and do not answer the message.
Reply with JSON: {"query": "..."}"""

_SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}


async def rewritten(text: str, model: JsonModel, *, deadline_s: float = REWRITE_S) -> str:
    """The text as a query, or the text itself if the model fails or is too slow."""
    if len(text.strip()) < MIN_CHARS:
        return text
    try:
        async with asyncio.timeout(deadline_s):
            answer = await model.ask(system=_TASK, user=text, schema_name="search_query", schema=_SCHEMA)
    except (ModelCallError, TimeoutError) as error:
        log.warning("a query is searched for as it came, it could not be rewritten: %s", error)
        return text
    query = answer.get("query") if isinstance(answer, dict) else None
    return query if isinstance(query, str) and query.strip() else text
