"""Agents with a tool, one for each way in which clients speak: the same loop, the same questions."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from typing_extensions import override

from memproxy.records import JsonObject
from tests.fakes.serving import Served

SCHEMA: JsonObject = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
FUNCTIONS: list[JsonObject] = [
    {"name": "search_orders", "description": "Search the customer's orders.", "parameters": SCHEMA},
    {"name": "cancel_order", "description": "Cancel an order.", "parameters": {"type": "object"}},
]


class Agent(ABC):
    """A tool loop as any agent has it."""

    def __init__(self, url: str, *, stream: bool, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.stream = stream
        self.headers = headers or {}
        self.executed: list[str] = []
        self.usage = 0
        self.results: list[JsonObject] = []
        """What came back for the last request, in this format."""

    async def ask(self, text: str) -> str:
        """Put a question, run what tools the model asks for, give its answer."""
        self.put(text)
        while True:
            words, calls = await self.complete()
            if not calls:
                return words
            self.give([(call_id, self.run(name)) for call_id, name in calls])

    def run(self, name: str) -> str:
        """Carry a tool out."""
        self.executed.append(name)
        return json.dumps({"id": "LX-7", "run": len(self.executed)})

    @abstractmethod
    def put(self, text: str) -> None:
        """The user says something."""

    @abstractmethod
    async def complete(self) -> tuple[str, list[tuple[str, str]]]:
        """One request: the words of its answer, and its calls as id and name."""

    @abstractmethod
    def give(self, results: list[tuple[str, str]]) -> None:
        """The results of calls, as id and content."""


class OpenAIAgent(Agent):
    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.url, api_key="sk-test", max_retries=0, default_headers=self.headers)


class ChatAgent(OpenAIAgent):
    """Chat completions; keeps its history, or only the newest turn."""

    resends = True

    def __init__(self, url: str, **given: Any) -> None:
        super().__init__(url, **given)
        self.history: list[Any] = []

    @override
    def put(self, text: str) -> None:
        if not self.resends:
            self.history = []
        self.history.append({"role": "user", "content": text})

    @override
    async def complete(self) -> tuple[str, list[tuple[str, str]]]:
        tools: Any = [{"type": "function", "function": function} for function in FUNCTIONS]
        async with self.client() as client:
            if self.stream:
                async with client.chat.completions.stream(
                    model="m", messages=self.history, tools=tools, stream_options={"include_usage": True}
                ) as stream:
                    answer: Any = await stream.get_final_completion()
            else:
                answer = await client.chat.completions.create(model="m", messages=self.history, tools=tools)
        self.usage += answer.usage.total_tokens
        message = answer.choices[0].message.model_dump(exclude_none=True)
        message.pop("parsed", None)
        for call in message.get("tool_calls") or ():
            call["function"].pop("parsed_arguments", None)
        self.history.append(message)
        calls = [(call["id"], call["function"]["name"]) for call in message.get("tool_calls") or ()]
        return str(message.get("content") or ""), calls

    @override
    def give(self, results: list[tuple[str, str]]) -> None:
        self.history += [{"role": "tool", "tool_call_id": call, "content": content} for call, content in results]


class ForgetfulChatAgent(ChatAgent):
    resends = False


class ResponsesAgent(OpenAIAgent):
    """Responses; sends all items again."""

    keeps_reasoning = True

    def __init__(self, url: str, *, options: JsonObject | None = None, **given: Any) -> None:
        super().__init__(url, **given)
        self.options = options or {}
        self.input: list[Any] = []

    @override
    def put(self, text: str) -> None:
        self.input.append({"role": "user", "content": text})

    @override
    async def complete(self) -> tuple[str, list[tuple[str, str]]]:
        tools: Any = [{"type": "function", "strict": False, **function} for function in FUNCTIONS]
        async with self.client() as client:
            if self.stream:
                async with client.responses.stream(model="m", input=self.input, tools=tools, **self.options) as stream:
                    answer: Any = await stream.get_final_response()
            else:
                answer = await client.responses.create(model="m", input=self.input, tools=tools, **self.options)
        assert answer.error is None
        self.usage += answer.usage.total_tokens
        self.answered(answer.id, [item.model_dump(exclude_unset=True) for item in answer.output])
        calls = [(item.call_id, item.name) for item in answer.output if item.type == "function_call"]
        return str(answer.output_text), calls

    def answered(self, answer_id: str, output: list[JsonObject]) -> None:
        """What the next request will hold of this answer."""
        for item in output:
            item.pop("parsed_arguments", None)
            for part in item.get("content") or ():
                part.pop("parsed", None)
            if item["type"] != "reasoning" or self.keeps_reasoning:
                self.input.append(item)

    @override
    def give(self, results: list[tuple[str, str]]) -> None:
        self.input += [
            {"type": "function_call_output", "call_id": call, "output": content} for call, content in results
        ]


class BareResponsesAgent(ResponsesAgent):
    """Sends again what was said and called, but not what was thought, and nothing that the server numbered."""

    keeps_reasoning = False

    @override
    def answered(self, answer_id: str, output: list[JsonObject]) -> None:
        bare = []
        for item in output:
            if item["type"] == "message":
                bare.append({"role": "assistant", "content": item["content"][0]["text"]})
            elif item["type"] == "function_call":
                bare.append({name: item[name] for name in ("type", "call_id", "name", "arguments")})
        self.input += bare


class ReferringAgent(ResponsesAgent):
    """Refers to what the provider has stored of each answer."""

    @override
    def answered(self, answer_id: str, output: list[JsonObject]) -> None:
        self.input += [{"type": "item_reference", "id": item["id"]} for item in output]


class StatelessResponsesAgent(ResponsesAgent):
    """Nothing is stored at the provider; what was thought is sent back encrypted."""

    def __init__(self, url: str, **given: Any) -> None:
        super().__init__(url, options={"store": False, "include": ["reasoning.encrypted_content"]}, **given)


class ChainedAgent(ResponsesAgent):
    """Names the answer before, and sends only what is new."""

    @override
    def answered(self, answer_id: str, output: list[JsonObject]) -> None:
        self.options = {"previous_response_id": answer_id}
        self.input = []


class ConversationAgent(ResponsesAgent):
    """Uses a conversation object at the provider, and sends only what is new."""

    @override
    async def complete(self) -> tuple[str, list[tuple[str, str]]]:
        if not self.options:
            async with self.client() as client:
                self.options = {"conversation": (await client.conversations.create()).id}
        return await super().complete()

    @override
    def answered(self, answer_id: str, output: list[JsonObject]) -> None:
        self.input = []


class AnthropicAgent(Agent):
    """Anthropic's Messages API; sends all messages again, thinking included."""

    keeps_thinking = True

    def __init__(self, url: str, **given: Any) -> None:
        super().__init__(url, **given)
        self.history: list[Any] = []

    @override
    def put(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})

    @override
    async def complete(self) -> tuple[str, list[tuple[str, str]]]:
        tools: Any = [
            {"name": one["name"], "description": one["description"], "input_schema": one["parameters"]}
            for one in FUNCTIONS
        ]
        url = self.url.removesuffix("/v1")
        async with AsyncAnthropic(
            base_url=url, api_key="sk-test", max_retries=0, default_headers=self.headers
        ) as client:
            given: Any = {"model": "m", "max_tokens": 1_000, "messages": self.history, "tools": tools}
            if self.stream:
                async with client.messages.stream(**given) as stream:
                    answer: Any = await stream.get_final_message()
            else:
                answer = await client.messages.create(**given)
        self.usage += answer.usage.input_tokens + answer.usage.output_tokens
        self.usage += answer.usage.cache_read_input_tokens or 0
        blocks = [block.model_dump(exclude_none=True) for block in answer.content]
        kept = [block for block in blocks if block["type"] != "thinking" or self.keeps_thinking]
        for block in kept:
            block.pop("parsed_output", None)
        self.history.append({"role": "assistant", "content": kept})
        calls = [(block["id"], block["name"]) for block in blocks if block["type"] == "tool_use"]
        assert (answer.stop_reason == "tool_use") is bool(calls)
        return "".join(block["text"] for block in blocks if block["type"] == "text"), calls

    @override
    def give(self, results: list[tuple[str, str]]) -> None:
        blocks = [{"type": "tool_result", "tool_use_id": call, "content": content} for call, content in results]
        self.history.append({"role": "user", "content": blocks})


class ForgetfulAnthropicAgent(AnthropicAgent):
    """Sends only the newest turn."""

    @override
    def put(self, text: str) -> None:
        self.history = []
        super().put(text)


RESENDING: list[Callable[..., Agent]] = [
    ChatAgent,
    ResponsesAgent,
    BareResponsesAgent,
    ReferringAgent,
    StatelessResponsesAgent,
    AnthropicAgent,
]
"""Send all of their history each time."""

AGENTS: list[Callable[..., Agent]] = [
    *RESENDING,
    ForgetfulChatAgent,
    ForgetfulAnthropicAgent,
    ChainedAgent,
    ConversationAgent,
]


def through(served: Served, make: Callable[..., Agent], path: str = "/s/one/v1", **given: Any) -> Agent:
    """The agent with memproxy before its model."""
    return make(served.origin + path, **given)


def direct(served: Served, make: Callable[..., Agent], **given: Any) -> Agent:
    """The agent at its model."""
    return make(served.instance.services.settings.upstream_base_url, **given)
