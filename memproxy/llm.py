"""Ask a model for JSON; the only door to the openai package.

Providers differ in what they let a caller say about the answer's form: a strict schema, any JSON object, or nothing.
`JsonModel` asks for the most, steps down when the provider refuses the parameter, and remembers what it took. Whatever
comes back is read leniently (`loose_json`); an answer that still can't be used is shown to the model once more, with
the reason, since models mend their own mistakes better than anybody else can.

Calls carry `X-Memproxy-Memory: off`: a model endpoint may be memproxy itself, which must not learn from its own
reading. A call that failed is not made again here; the queue does that, so every failure says whether that may help.
"""

import asyncio
import copy
import enum
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI

from memproxy.errors import ModelAwayError, ModelCallError
from memproxy.loose_json import read_json
from memproxy.records import JsonObject
from memproxy.telemetry.traces import Span, Traces, Value
from memproxy.tokens import estimate_tokens

log = logging.getLogger(__name__)

NO_KEY = "no-key"
"""Sent where no key is configured: the client insists on one, model servers of one's own do not look at it."""

PASSING_STATUSES = frozenset({408, 409, 425, 429})
"""Client errors that the same request may not meet again; so are all of 500 and above."""

AWAY_STATUSES = frozenset({401, 402, 403, 404, 429, 503, 529})
"""What any request would be answered just now: who asks, or what is asked, is not known, or it is too much."""

REFUSED_STATUSES = frozenset({400, 422, 501})
"""How providers answer a parameter that they do not take."""

SHOWN_AGAIN_CHARS = 8_000
"""Of an answer that could not be used, as it is shown to the model that gave it."""

REPAIR = (
    "Your answer can't be used: {reason}. Give it once more, in exactly the form that was asked for: one JSON object,"
    " nothing before it and nothing after it."
)


class AnswerFormat(enum.StrEnum):
    """What the request says about the answer's form, the strictest first."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    TEXT = "text"


class JsonModel:
    """One model at one OpenAI-compatible endpoint. Close it, or use it as an async context manager.

    `timeout_s` is for the whole call.
    """

    def __init__(
        self, base_url: str, api_key: str | None, model: str, timeout_s: float, traces: Traces | None = None
    ) -> None:
        self._model = model
        self._base_url = base_url
        self._traces = traces
        self._timeout_s = timeout_s
        self._format = AnswerFormat.JSON_SCHEMA
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or NO_KEY,
            timeout=timeout_s,
            max_retries=0,
            default_headers={"X-Memproxy-Memory": "off"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def named(self, model: str) -> "JsonModel":
        """Another model at the same endpoint; it shares the connections and is not to be closed."""
        other = copy.copy(self)
        other._model = model
        return other

    async def ask(
        self,
        *,
        system: str,
        user: str,
        schema_name: str,
        schema: JsonObject,
        read: Callable[[str], Any] = read_json,
        spent: Callable[[int], None] | None = None,
    ) -> Any:
        """What `read` makes of the model's answer; by default the JSON object or list in it.

        `read` raises ValueError for an answer that can't be used; its message is shown to the model, which gets one
        chance to answer better. The schema is a wish, so check what the answer holds. `spent` is told the tokens of
        each call, also when in the end there is no answer. Raises ModelCallError.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        answer = await self._asked(messages, schema_name=schema_name, schema=schema, spent=spent)
        try:
            return read(answer)
        except ValueError as error:
            log.info("%s is asked to mend its answer: %s", self._model, error)
            messages += _repair(answer, str(error))
        answer = await self._asked(messages, schema_name=schema_name, schema=schema, spent=spent)
        try:
            return read(answer)
        except ValueError as error:
            raise ModelCallError(f"{self._model} answered twice what can't be used: {error}", retryable=True) from error

    async def _asked(
        self,
        messages: list[JsonObject],
        *,
        schema_name: str,
        schema: JsonObject,
        spent: Callable[[int], None] | None,
    ) -> str:
        """The words of one answer, in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                completion = await self._ask_as_accepted(messages, schema_name=schema_name, schema=schema)
        except TimeoutError as error:
            raise ModelCallError(
                f"{self._model} did not answer within {self._timeout_s:g} s", retryable=True
            ) from error
        if spent is not None:
            spent(_tokens(completion, messages))
        return _words(completion, model=self._model)

    async def _ask_as_accepted(self, messages: list[JsonObject], *, schema_name: str, schema: JsonObject) -> Any:
        """The answer, asked for in the strictest form that the provider takes."""
        formats = list(AnswerFormat)
        for answer_format in formats[formats.index(self._format) :]:
            try:
                answer = await self._complete(messages, _response_format(answer_format, schema_name, schema))
            except openai.OpenAIError as error:
                if answer_format is formats[-1] or not _may_refuse_format(error):
                    raise model_call_error(error, model=self._model) from error
                continue
            if answer_format is not self._format:
                log.info("the model %s takes no stricter answer format than %s", self._model, answer_format)
                self._format = answer_format
            return answer
        raise AssertionError("the last format returns or raises")

    async def _complete(self, messages: list[JsonObject], response_format: JsonObject | None) -> Any:
        create: Any = self._client.chat.completions.create  # Any: plain dicts are what goes over the wire
        form = openai.omit if response_format is None else response_format
        try:
            with self._span() as span:
                completion = await create(model=self._model, messages=messages, response_format=form)
                if span is not None:
                    span.set(_told(completion))
                return completion
        except ValueError as error:  # the client lets the decoder's own errors through
            raise ModelCallError(f"{self._model} answered nothing readable: {error}", retryable=True) from error

    def _span(self) -> AbstractContextManager[Span | None]:
        """The call in a trace."""
        if self._traces is None:
            return nullcontext()
        told = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": self._model,
            "server.address": urlsplit(self._base_url).hostname or "",
        }
        return self._traces.span(f"chat {self._model}", kind="client", attributes=told)


def _told(completion: Any) -> dict[str, Value | None]:
    """What a trace tells of an answer; nothing that is not what it should be. Any: see `_words`."""
    usage = getattr(completion, "usage", None)
    told = {
        "gen_ai.response.id": getattr(completion, "id", None),
        "gen_ai.response.model": getattr(completion, "model", None),
        "gen_ai.usage.input_tokens": getattr(usage, "prompt_tokens", None),
        "gen_ai.usage.output_tokens": getattr(usage, "completion_tokens", None),
    }
    return {name: value for name, value in told.items() if isinstance(value, str | int)}


def _words(completion: Any, *, model: str) -> str:
    """The answer's words. Any: the client does not check a response, so it may be whatever the server sent."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if refusal := getattr(message, "refusal", None):
        raise ModelCallError(f"{model} refused to answer ({len(str(refusal))} characters)", retryable=False)
    content = getattr(message, "content", None)
    if not isinstance(content, str) or not content.strip():
        raise ModelCallError(f"{model} answered without words", retryable=True)
    return content


def _tokens(completion: Any, messages: list[JsonObject]) -> int:
    """What the call cost, as the server says, or by our own count where it says nothing."""
    total = getattr(getattr(completion, "usage", None), "total_tokens", None)
    if isinstance(total, int) and total > 0:
        return total
    choices = getattr(completion, "choices", None)
    answer = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    texts = [str(message["content"]) for message in messages] + [str(getattr(answer, "content", None) or "")]
    return sum(map(estimate_tokens, texts))


def _repair(answer: str, reason: str) -> list[JsonObject]:
    """What is added to the conversation to have an answer mended."""
    shown = answer if len(answer) <= SHOWN_AGAIN_CHARS else answer[:SHOWN_AGAIN_CHARS] + " [...]"
    return [{"role": "assistant", "content": shown}, {"role": "user", "content": REPAIR.format(reason=reason)}]


def _response_format(answer_format: AnswerFormat, name: str, schema: JsonObject) -> JsonObject | None:
    match answer_format:
        case AnswerFormat.JSON_SCHEMA:
            return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
        case AnswerFormat.JSON_OBJECT:
            return {"type": "json_object"}
        case AnswerFormat.TEXT:
            return None


def _may_refuse_format(error: openai.OpenAIError) -> bool:
    return (
        isinstance(error, openai.APIStatusError)
        and error.status_code in REFUSED_STATUSES
        and error.code != "context_length_exceeded"
    )


def model_call_error(error: openai.OpenAIError, *, model: str) -> ModelCallError:
    """What the client's error means for the one who asked, without the provider's words: they may quote a key."""
    match error:
        case openai.APITimeoutError():
            return ModelCallError(f"{model} did not answer in time", retryable=True)
        case openai.APIConnectionError():
            return ModelAwayError(f"{model} can't be reached: {error.__cause__!r}", retryable=True)
        case openai.APIStatusError(status_code=status):
            details = ", ".join(str(detail) for detail in (error.code, error.type, error.param) if detail)
            retryable = status >= 500 or status in PASSING_STATUSES
            kind = ModelAwayError if status in AWAY_STATUSES else ModelCallError
            return kind(f"{model} answered {status} ({details or 'no details'})", retryable=retryable)
        case openai.APIError():
            return ModelCallError(f"{model} answered nothing readable: {type(error).__name__}", retryable=True)
        case _:
            return ModelCallError(f"{model} can't be asked: {type(error).__name__}", retryable=False)
