"""The examples as their readers run them: a process of its own each, before a real memproxy and a scripted model."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from memproxy.demo.lookups import support
from memproxy.demo.script import ModelRequest, Reply, ToolCallReply, text_of
from tests.fakes.serving import Serve, Served
from tests.rules.source import ROOT

EXAMPLES = ROOT / "examples"


async def ran(name: str, served: Served, *arguments: str, **environment: str) -> str:
    """What the example prints; it has to end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        env={**_plain(os.environ), "OPENAI_API_KEY": "sk-test", "MEMPROXY_URL": served.origin, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(45):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what this machine has set for the programs that the examples use."""
    foreign = ("OPENAI_", "MEMPROXY_", "COV_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in environment.items() if not name.upper().startswith(foreign)}


def said(request: ModelRequest) -> str:
    """The newest user message without what memproxy put in front of it."""
    return request.last_user_text.rpartition("</memproxy-memory>")[2].strip()


def everything(request: ModelRequest) -> str:
    """All that the model sees."""
    return "\n".join(text_of(message) for message in request.messages)


async def test_session_agent(serve: Serve) -> None:
    """Three questions, no history sent, one look-up made."""
    async with serve(support) as served:
        output = await ran("session_agent.py", served, OPENAI_BASE_URL=f"{served.origin}/u/alice/s/support-1/v1")
    assert "agent: Yes, order LX-48213 is shipped." in output
    assert "agent: Order LX-48213 arrives on Thursday." in output
    assert "the address can no longer be changed" in output
    assert "The agent ran its tool 1 times." in output
    assert "memproxy answered 2 calls" in output
    last = everything(served.model.chat_requests[-1])
    assert "Has it been sent?" in last


def knows_bangkok(request: ModelRequest) -> Reply:
    """Knows of the allergy and of the flight if it is told."""
    seen = everything(request)
    if "restaurant" in said(request):
        return Reply("Peanuts." if "allergic to peanuts" in seen else "Nothing.")
    if "when do I" in said(request):
        return Reply("In December." if "December" in seen else "I don't know.")
    return Reply("Noted.")


async def test_knowledge_agent(serve: Serve) -> None:
    """What was said on Monday is known on Friday, and the reader sees what was put in front of the question."""
    async with serve(knows_bangkok) as served:
        output = await ran("knowledge_agent.py", served)
    monday, friday = output.split("Friday")
    assert "assistant: Peanuts." in friday
    assert "assistant: In December." in friday
    assert re.search(r"\([1-9]\d* memories were put in front", friday)
    assert re.search(r"\| .*allergic to peanuts", friday)
    assert "|" not in monday


def books_hotels(request: ModelRequest) -> Reply:
    """Goes by what it is told of the dog and of trains."""
    seen = everything(request)
    hotel = "one that takes dogs" if "dog" in seen else "any"
    return Reply(f"Book {hotel}, and go by {'train' if 'trains' in seen else 'plane'}.")


async def test_code_driven(serve: Serve) -> None:
    """Each call of the client does what the example says, and the model sees what the code chose."""
    async with serve(books_hotels) as served:
        output = await ran("code_driven.py", served)
        assert "Erin travels with a dog" in output
        assert "Corrected: Erin's invoices go to the address in Bruges." in output
        assert "State of the conversation: {'nights': 3, 'step': 'dates'}" in output
        assert "Answer: Book one that takes dogs, and go by train." in output
        assert "Cleaned up: ok, deleted 3 memories" in output
        assert "Ghent" not in everything(served.model.chat_requests[-1])


def passport_clerk(request: ModelRequest) -> Reply:
    """Keeps what it is asked to keep and looks up what it is asked for, with whatever tools it has."""
    last = request.messages[-1]
    names = [tool["function"]["name"] for tool in request.body.get("tools", [])]
    if last["role"] == "tool":
        return Reply("Your passport runs out in May 2027." if "May 2027" in text_of(last) else "I have noted it.")
    if "remember" in said(request):
        text = "Frank's passport runs out in May 2027."
        memory = {"text": text, "memory_type": "semantic"}
        if "memproxy_create_memories" in names:
            return Reply(tool_calls=(ToolCallReply("memproxy_create_memories", {"memories": [memory]}),))
        return Reply(tool_calls=(ToolCallReply("eagerly_create_long_term_memory", {"memories": [memory]}),))
    search = "memproxy_search_memory" if "memproxy_search_memory" in names else "search_memory"
    return Reply(tool_calls=(ToolCallReply(search, {"query": "passport"}),))


async def test_llm_driven(serve: Serve) -> None:
    """The model remembers by tools: memproxy's, which the agent never sees, and the client's."""
    async with serve(passport_clerk) as served:
        output = await ran("llm_driven.py", served)
    first, second = output.split("the client's tools")
    for half in (first, second):
        assert "assistant: I have noted it." in half
        assert "assistant: Your passport runs out in May 2027." in half
    assert first.count("(1 calls answered by memproxy)") == 2
    assert "eagerly_create_long_term_memory:" in second
    assert "search_memory: Found 1" in second


NOTES = {
    "keep the summary of a conversation": {
        "summary": "The user moved to Lyon and was told of two climbing gyms near Part-Dieu.",
        "topics": ["climbing"],
        "entities": ["Lyon"],
    },
    "what the user likes, wants and expects": {
        "memories": [
            {
                "text": "The user would rather not pay by card.",
                "type": "semantic",
                "topics": ["payment"],
                "entities": [],
                "event_date": None,
                "evidence": "I'd rather not pay by card",
            }
        ]
    },
    "Somebody has written down what they want": {
        "memories": [
            {
                "text": "There are two climbing gyms near the Part-Dieu station in Lyon.",
                "type": "semantic",
                "topics": ["places"],
                "entities": ["Lyon", "Part-Dieu"],
                "event_date": None,
                "evidence": "There are two good ones near the Part-Dieu station",
            }
        ]
    },
    "what will still be worth knowing": {
        "memories": [
            {
                "text": "The user moved to Lyon.",
                "type": "episodic",
                "topics": ["home"],
                "entities": ["Lyon"],
                "event_date": "2026-11-15",
                "evidence": "I moved to Lyon last week",
            }
        ]
    },
}
"""What the model notes, by words of the instructions that it is given."""


def note_taker(request: ModelRequest) -> Reply:
    """Notes what each strategy's instructions ask for."""
    instructions = text_of(request.messages[0])
    return Reply(json.dumps(next(notes for words, notes in NOTES.items() if words in instructions)))


async def test_background_extraction(serve: Serve) -> None:
    """Each strategy reads the same conversation in its own way; the prompt and the limit of the example reach the
    model."""
    settings = {"extraction_model": "scripted", "upstream_api_key": "key", "extraction_debounce_s": 0}
    async with serve(note_taker, **settings) as served:
        output = await ran("background_extraction.py", served)
        shown = [everything(request) for request in served.model.chat_requests]
    parts = re.split(r"^(discrete|summary|preferences|custom)$", output, flags=re.MULTILINE)
    noted = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert "episodic  The user moved to Lyon. (2026-11-15)" in noted["discrete"]
    assert "semantic  The user moved to Lyon and was told of two" in noted["summary"]
    assert "semantic  The user would rather not pay by card." in noted["preferences"]
    assert "semantic  There are two climbing gyms near" in noted["custom"]
    assert "climbing" in noted["summary"]
    assert any("only facts about places" in each for each in shown)
    assert any('"max_words": 60' in each for each in shown)


def concierge(request: ModelRequest) -> Reply:
    """Notes the wish, and goes by all that it is told."""
    last, asked = request.messages[-1], said(request)
    if last["role"] == "tool":
        return Reply("I will keep that in mind.")
    if "remember" in asked:
        memory = {"text": "Grace wants a room on the quiet side.", "memory_type": "semantic"}
        return Reply(tool_calls=(ToolCallReply("memproxy_create_memories", {"memories": [memory]}),))
    if "Which room" not in asked:
        return Reply("I am sorry to hear that.")
    seen = everything(request)
    room = "on the quiet side" if "quiet side" in seen else "somewhere"
    why = ", since the street was loud" if "so loud" in seen else ""
    return Reply(f"A room {room}{why}. Breakfast is {'included' if 'half board' in seen else 'extra'}.")


async def test_hybrid_agent(serve: Serve) -> None:
    """What the application, the model and the background kept stands in front of one question."""
    async with serve(concierge) as served:
        output = await ran("hybrid_agent.py", served)
    known = output.split("What is known")[1].split("The next stay")[0]
    assert "semantic  Grace has booked half board" in known
    assert "semantic  Grace wants a room on the quiet side." in known
    assert re.search(r"message +.*so loud", known)
    answer = output.split("The next stay")[1]
    assert "A room on the quiet side, since the street was loud. Breakfast is included." in answer
    assert re.search(r"\([1-9]\d* memories in front", answer)


def test_the_readme_lists_every_example() -> None:
    """Who looks for a pattern finds its file, and no file is forgotten."""
    listed = set(re.findall(r"\]\(([\w_]+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8")))
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_read_in_a_minute(path: Path) -> None:
    """It shows one thing, says how it is run, and fits on two screens."""
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 130
    assert f"python examples/{path.name}" in text
