"""The two scenes that `memproxy demo` plays, and what the scripted model says in them.

The model knows nothing but what it is sent: it names the order only if the order stands somewhere in the request, and
it keeps a preference only if it is told of it. So its answers show what memproxy added.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from memproxy.demo.lookups import support
from memproxy.demo.script import ModelRequest, Reply

USER = "alice"
ORDER = "LX-48213"
PREFERENCE = "Alice wants to be contacted by e-mail only and never answers phone calls."


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that the user says."""

    text: str
    must_receive: Sequence[str]
    """What has to stand in the request that the model receives for it."""
    must_answer: str
    """What the model says only if it received that."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One conversation."""

    title: str
    session: str
    days_later: int
    lines: Sequence[Line]


SCENES = (
    Scene(
        "One session: the agent sends only its newest message",
        session="support-1",
        days_later=0,
        lines=(
            Line(f"Hi, I ordered a laptop last week. The order number is {ORDER}.", (), ORDER),
            Line("When will it arrive?", (ORDER,), ORDER),
            Line(
                "Can I change the delivery address? And please contact me by e-mail only, I never answer phone calls.",
                (ORDER, "When will it arrive?"),
                ORDER,
            ),
        ),
    ),
    Scene(
        "Five days later: a new session, and what was learned",
        session="support-2",
        days_later=5,
        lines=(
            Line(
                "Hello again! The laptop came, but a key is loose. How will you contact me about the repair?",
                (PREFERENCE, ORDER),
                "e-mail",
            ),
        ),
    ),
)


def answer(request: ModelRequest) -> Reply:
    """What the model says: as support agent, with a tool or without, or as the model that extracts memories."""
    if request.body.get("tools"):
        return support(request)
    if "response_format" in request.body:
        return Reply(text=json.dumps({"memories": _facts_in(request)}))
    return Reply(text=_support(request.last_user_text, seen=json.dumps(request.messages, ensure_ascii=False)))


def _support(asked: str, *, seen: str) -> str:
    order = re.search(r"\bLX-\d+\b", seen)
    asked = asked.rpartition("</memproxy-memory>")[2]
    if order is None:
        return "Gladly. Which order do you mean?"
    if "contact me about" in asked:
        how = (
            "by e-mail, as you asked; we won't call"
            if "by e-mail only" in seen
            else "by e-mail or by phone, as you like"
        )
        return f"I am sorry about the loose key on {order[0]}. We will reach you {how}."
    if "arrive" in asked:
        return f"Order {order[0]} is on its way and arrives on Thursday."
    if "address" in asked:
        return f"Yes, the address of order {order[0]} can still be changed. Which one shall it be?"
    return f"Thank you, I found order {order[0]}. What would you like to know?"


def _facts_in(request: ModelRequest) -> list[dict[str, object]]:
    evidence = "please contact me by e-mail only, I never answer phone calls"
    if evidence not in request.last_user_text:
        return []
    fact = {"text": PREFERENCE, "type": "semantic", "topics": ["contact"], "entities": ["Alice"]}
    return [{**fact, "event_date": None, "evidence": evidence}]
