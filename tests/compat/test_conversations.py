"""Real conversations through memproxy: nothing fails, nothing is doubled, nothing is torn apart."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from memproxy.proxy.compose import message_without_blocks
from memproxy.records import Scope, SessionKey
from memproxy.wire.chat_completions import digest
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from tests.fakes.serving import Serve, Served
from tests.fakes.shared_data import dialogues, trajectories

Messages = list[dict[str, Any]]


class Actor:
    """The model server's side of a conversation: says what the real model said at that point."""

    def __init__(self) -> None:
        self.next: dict[str, Any] = {}

    def __call__(self, _: ModelRequest) -> Reply:
        calls = tuple(
            ToolCallReply(call["function"]["name"], call["function"]["arguments"], id=call["id"])
            for call in self.next.get("tool_calls") or ()
        )
        return Reply(text=self.next.get("content"), tool_calls=calls)


async def say(
    served: Served, client: httpx.AsyncClient, path: str, messages: Messages, *, stream: bool
) -> httpx.Headers:
    """Send one request and read its answer to the end."""
    body = {"model": "gpt-4o", "messages": messages, "stream": stream}
    response = await client.post(f"{served.origin}{path}/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert "x-memproxy-degraded" not in response.headers
    return response.headers


async def explained(served: Served, client: httpx.AsyncClient, headers: httpx.Headers) -> dict[str, Any]:
    response = await client.get(f"{served.origin}/memproxy/explain/{headers['x-memproxy-request-id']}")
    receipt: dict[str, Any] = response.json()
    return receipt


async def log_of(served: Served, session: str, *, user: str | None) -> Messages:
    """The session's log as it is stored."""
    stored = await served.instance.services.sessions.messages(SessionKey(Scope("single", user), session), 0, -1)
    return [message.message for message in stored]


def digests(messages: Messages) -> list[bytes]:
    return [digest(message) for message in messages]


def sent_again(trajectory: Messages) -> Iterator[tuple[Messages, dict[str, Any]]]:
    """Each request of an agent that resends its whole history, with what the model answered."""
    for place, message in enumerate(trajectory):
        if message["role"] == "assistant" and any(each["role"] == "user" for each in trajectory[:place]):
            yield trajectory[:place], message


def with_unique_ids(trajectory: Messages) -> Messages:
    """Some recorded trajectories use an id for two calls, which providers refuse; each call gets one of its own."""
    renamed: Messages = []
    ids: dict[str, str] = {}
    for place, message in enumerate(trajectory):
        renamed.append(dict(message))
        if message.get("tool_calls"):
            ids = {call["id"]: f"call_{place}_{at}" for at, call in enumerate(message["tool_calls"])}
            renamed[-1]["tool_calls"] = [{**call, "id": ids[call["id"]]} for call in message["tool_calls"]]
        elif message["role"] == "tool":
            renamed[-1]["tool_call_id"] = ids[message["tool_call_id"]]
    return renamed


@pytest.mark.timeout(240)
@pytest.mark.parametrize("named", [True, False])
async def test_tool_trajectories_with_their_history_resent(serve: Serve, named: bool) -> None:
    """Alignment finds exactly the new messages of each step; the session holds each message once."""
    actor = Actor()
    async with serve(actor) as served, httpx.AsyncClient(verify=False, timeout=60) as client:
        for number, trajectory in enumerate(trajectories()):
            messages = with_unique_ids(trajectory["messages"])
            path = f"/u/user-{number}/s/session-{number}/v1" if named else f"/u/user-{number}/v1"
            before = 0
            session = ""
            for sent, actor.next in sent_again(messages):
                headers = await say(served, client, path, sent, stream=bool(len(sent) % 2))
                receipt = await explained(served, client, headers)
                spoken = [each for each in sent if each["role"] != "system"]
                assert receipt["alignment"]["shape"] == "whole"
                assert receipt["alignment"]["new"] == len(spoken) - before
                assert session in {"", headers["x-memproxy-session"]}
                assert digests(
                    [message_without_blocks(CHAT_COMPLETIONS, m) for m in served.model.requests[-1].messages]
                ) == digests(sent)
                before, session = len(spoken) + 1, headers["x-memproxy-session"]
            if not session:
                continue  # the recording ends before the model answers anybody
            await served.settled()
            spoken = [each for each in [*sent, actor.next] if each["role"] != "system"]
            assert digests(await log_of(served, session, user=f"user-{number}")) == digests(spoken)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("window", [None, 1, 5])
async def test_dialogues_as_chat_turns(serve: Serve, window: int | None) -> None:
    """Whole history, only the newest message, or a window of five: the model always sees the whole conversation."""
    actor = Actor()
    async with serve(actor) as served, httpx.AsyncClient(verify=False, timeout=60) as client:
        for conversation in dialogues():
            for sitting, turns in sittings(conversation).items():
                name = f"{conversation['id']}-{sitting}"
                path = f"/u/{conversation['id']}/s/{name}/v1"
                said: Messages = []
                for asked, actor.next in turns:
                    said.append(asked)
                    shown = said if window is None else said[-window:]
                    await say(served, client, path, shown, stream=bool(len(said) % 3))
                    received = [
                        message_without_blocks(CHAT_COMPLETIONS, each) for each in served.model.requests[-1].messages
                    ]
                    assert digests(received) == digests(said)
                    said.append(actor.next)
                await served.settled()
                assert digests(await log_of(served, name, user=conversation["id"])) == digests(said)


def sittings(conversation: dict[str, Any]) -> dict[int, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """The conversation's first sittings as pairs of a user's message and the answer to it."""
    found: dict[int, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for sitting in range(1, 5):
        records = [record for record in conversation["records"] if record["session"] == sitting]
        texts: list[list[str]] = []
        speakers: list[str] = []
        for record in records:
            if speakers and speakers[-1] == record["speaker"]:
                texts[-1].append(record["text"])
            else:
                speakers.append(record["speaker"])
                texts.append([record["text"]])
        lines = ["\n".join(each) for each in texts]
        found[sitting] = [
            ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
            for asked, answered in zip(lines[::2], lines[1::2], strict=False)
        ]
    return found
