"""Recognise an agent's utility calls (titles, tags, probes), which are not part of the conversation. Pure."""

import re

from memproxy.wire.dialect import Request

_ABOUT_A_CONVERSATION = re.compile(
    r"\b(generat|creat|writ|suggest|produc|provid|com[ei]\w* up with)\w*\b[^.\n]{0,80}"
    r"\b(titles?|headlines?|tags|follow-up questions)\b[^.\n]{0,120}"
    r"\b(conversation|chat|session|thread|discussion|dialogue|message)\b",
    re.IGNORECASE,
)
_TITLE_AGENT = re.compile(
    r"\byou are a (\w+ )?(title|tag|headline|summary) (generator|writer|creator)\b", re.IGNORECASE
)
_TASK = re.compile(r"\A\s*#{2,3} Task:", re.IGNORECASE)
"""How web front ends open the tasks that they give to a model about a chat."""

_LOOKED_AT = 2_000
"""Characters of a message that are searched; such instructions stand at its beginning."""


def is_utility(request: Request) -> bool:
    """Whether this request serves the agent itself: it gets no memory and leaves none."""
    if request.reply_tokens == 1:
        return True
    instructions = [request.dialect.text_of(message)[:_LOOKED_AT] for message in request.instructions]
    if any(_TITLE_AGENT.search(text) or _ABOUT_A_CONVERSATION.search(text[:300]) for text in instructions):
        return True
    last = request.messages[-1]
    text = request.dialect.text_of(last)[:_LOOKED_AT] if request.dialect.role_of(last) == "user" else ""
    return bool(_TASK.match(text) and _ABOUT_A_CONVERSATION.search(text))
