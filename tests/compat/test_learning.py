"""What is learned from real requests, with the whole program running: proxy, queue, worker, model, memory."""

import json
from itertools import pairwise
from typing import Any

from memproxy.demo.scripted_model import ModelRequest, Reply
from memproxy.records import MemoryType, Scope
from tests.fakes.learning import Answers, everything, shown
from tests.fakes.serving import Serve, Served

EXTRACTOR = {"extraction_model": "extractor", "upstream_api_key": "sk-up", "extraction_debounce_s": 0}


class Both:
    """One server as the agent's model and as the background model, told apart by name."""

    def __init__(self, answers: Answers, *, says: str = "Certainly, it is done.") -> None:
        self.answers = answers
        self.says = says
        self.asked: list[list[dict[str, Any]]] = []
        """The messages that the agent's model was sent."""

    def __call__(self, request: ModelRequest) -> Reply:
        if request.model == "extractor":
            return self.answers(request)
        self.asked.append(request.messages)
        return Reply(self.says)


async def say(served: Served, messages: list[dict[str, str]], words: str, *, path: str = "/u/ann/s/talk/v1") -> None:
    """One turn of an agent that sends its whole history; wait until it is learned from."""
    messages.append({"role": "user", "content": words})
    async with served.openai(path) as client:
        answer = await client.chat.completions.create(model="tiny", messages=messages)  # type: ignore[arg-type]
    messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
    await served.settled()


async def test_what_is_said_today_is_known_tomorrow_and_a_move_replaces_an_address(serve: Serve) -> None:
    """The whole way, twice: said, queued, read by the model, decided, stored, found, injected."""

    def facts(given: Any) -> Any:
        words = given["messages"][0]["words"]
        city = words.rpartition(" ")[2].strip(".")
        return {
            "memories": [{"text": f"Ann {'moved to' if 'moved' in words else 'lives in'} {city}.", "evidence": words}]
        }

    both = Both(Answers(discrete_memories=facts, decisions={"decisions": [{"pair": 1, "relation": "replaces"}]}))
    async with serve(both, **EXTRACTOR) as served:
        await say(served, [], "I live in Paris.", path="/u/ann/s/one/v1")
        await say(served, [], "I moved to Berlin.", path="/u/ann/s/two/v1")
        await say(served, [], "In which city do I live, Paris or Berlin?", path="/u/ann/s/three/v1")
        records = await everything(served.instance.services.long_term, Scope("single", "ann"))
    injected = both.asked[-1][-1]["content"]
    assert "- Ann moved to Berlin." in injected
    assert "- Ann lives in Paris." not in injected
    held = {record.text: record.valid_until is None for record in records if record.type is not MemoryType.MESSAGE}
    assert held["Ann lives in Paris."] is False
    assert held["Ann moved to Berlin."] is True


async def test_a_summary_takes_the_place_of_what_was_cut_and_changes_only_with_the_next_cut(serve: Serve) -> None:
    """The agent keeps its thread, and the provider's prompt cache keeps hitting."""

    def summary(given: Any) -> Any:
        return {"summary": f"{given['previous']} Ann told tales of {len(given['messages'])} messages.".strip()}

    both = Both(Answers(rolling_summary=summary), says="I have noted it down. " * 20)
    async with serve(both, **EXTRACTOR, default_window=6_000) as served:
        messages: list[dict[str, str]] = []
        for number in range(45):
            await say(served, messages, f"This is number {number} of my tales. " + "It goes on and on and on. " * 12)
    notes = [note for asked in both.asked if (note := _note(asked))]
    summaries = [note for note in notes if "Summary: Ann told tales" in note]
    assert len(summaries) > 3
    assert len(set(notes)) < len(notes) / 2
    first = [next((message["content"] for message in asked if message["role"] == "user"), "") for asked in both.asked]
    changes = sum(one != other for one, other in pairwise(first))
    assert changes == len(set(notes))


def _note(messages: list[dict[str, Any]]) -> str:
    """The block that stands for what was cut; empty without one."""
    found = [message["content"] for message in messages if "<memproxy-earlier" in str(message["content"])]
    return str(found[0]).partition("</memproxy-earlier>")[0] if found else ""


async def test_the_background_model_is_not_learned_from(serve: Serve) -> None:
    """Extraction goes through the same server, and its prompts are nobody's conversation."""
    both = Both(Answers(discrete_memories={"memories": []}))
    async with serve(both, **EXTRACTOR) as served:
        await say(served, [], "I am allergic to peanuts.")
        records = await everything(served.instance.services.long_term, Scope("single", "ann"))
    assert [record.text.partition(": ")[2] for record in records] == ["I am allergic to peanuts."]
    assert both.answers.count("discrete_memories") == 1
    assert shown(both.answers.asked[0][1])["messages"][0]["words"] == "I am allergic to peanuts."
    assert json.dumps(both.asked).count("allergic") == 1
