"""Ask a model for JSON; the only door to the openai package.

Providers differ in what they let a caller say about the answer's form: a strict schema, any JSON object, or nothing.
`JsonModel` asks for the most, steps down when the provider refuses the parameter, and remembers what it took. Whatever
comes back is read by `read_json`, which forgives what models do to JSON: thoughts before it, fences and prose around
it, trailing commas, an end that is missing.

Calls carry `X-Memproxy-Memory: off`: a model endpoint may be memproxy itself, which must not learn from its own
reading. Nothing is tried again here; the queue does that, so every failure says whether trying again may help.
"""

import asyncio
import enum
import json
import logging
import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import openai
from openai import AsyncOpenAI

from memproxy.errors import ModelCallError
from memproxy.records import JsonObject

log = logging.getLogger(__name__)

NO_KEY = "no-key"
"""Sent where no key is configured: the client insists on one, model servers of one's own do not look at it."""

PASSING_STATUSES = frozenset({408, 409, 425, 429})
"""Client errors that the same request may not meet again; so are all of 500 and above."""

REFUSED_STATUSES = frozenset({400, 422})
"""How providers answer a parameter that they do not take."""


class AnswerFormat(enum.StrEnum):
    """What the request says about the answer's form, the strictest first."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    TEXT = "text"


class JsonModel:
    """One model at one OpenAI-compatible endpoint. Close it, or use it as an async context manager.

    `timeout_s` is for the whole call.
    """

    def __init__(self, base_url: str, api_key: str | None, model: str, timeout_s: float) -> None:
        self._model = model
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

    async def ask(self, *, system: str, user: str, schema_name: str, schema: JsonObject) -> Any:
        """The model's answer as parsed JSON, an object or a list; the schema is a wish, so check what it holds.

        Raises ModelCallError.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._ask_as_accepted(messages, schema_name=schema_name, schema=schema)
        except TimeoutError as error:
            raise ModelCallError(
                f"{self._model} did not answer within {self._timeout_s:g} s", retryable=True
            ) from error
        try:
            return read_json(answer)
        except ValueError as error:
            raise ModelCallError(f"{self._model} answered no JSON: {error}", retryable=True) from error

    async def _ask_as_accepted(self, messages: list[JsonObject], *, schema_name: str, schema: JsonObject) -> str:
        """The answer's words, asked for in the strictest form that the provider takes."""
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

    async def _complete(self, messages: list[JsonObject], response_format: JsonObject | None) -> str:
        create: Any = self._client.chat.completions.create  # Any: plain dicts are what goes over the wire
        form = openai.omit if response_format is None else response_format
        try:
            completion = await create(model=self._model, messages=messages, response_format=form)
        except ValueError as error:  # the client lets the decoder's own errors through
            raise ModelCallError(f"{self._model} answered nothing readable: {error}", retryable=True) from error
        return _words(completion, model=self._model)


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
            return ModelCallError(f"{model} can't be reached: {error.__cause__!r}", retryable=True)
        case openai.APIStatusError(status_code=status):
            details = ", ".join(str(detail) for detail in (error.code, error.type, error.param) if detail)
            retryable = status >= 500 or status in PASSING_STATUSES
            return ModelCallError(f"{model} answered {status} ({details or 'no details'})", retryable=retryable)
        case openai.APIError():
            return ModelCallError(f"{model} answered nothing readable: {type(error).__name__}", retryable=True)
        case _:
            return ModelCallError(f"{model} can't be asked: {type(error).__name__}", retryable=False)


MAX_STARTS = 100
"""Brackets at which JSON may begin that are looked at; prose has a few, an answer that is no JSON has many."""
MAX_DEPTH = 50
"""Brackets within brackets that are mended; more is a model gone round in circles."""

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:[^"\\]|\\.)*+"|,(?=\s*[\]}])', re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
_DECODER = json.JSONDecoder(strict=False)  # line ends inside of strings are let pass


def read_json(text: str) -> Any:
    """The object or list that a model's answer holds, the longest of several; raises ValueError if there is none.

    Of an answer that was cut off, what stands before the last complete part.
    """
    text = _STRING_OR_TRAILING_COMMA.sub(_without_comma, _THOUGHTS.sub("", text))
    best, length = None, 0
    for start, end, value in _values(text):
        if end - start > length:
            best, length = value, end - start
    if best is None:
        raise ValueError(f"no object or list in {len(text)} characters")
    return best


def _without_comma(found: re.Match[str]) -> str:
    return "" if found.group() == "," else found.group()


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Each object or list that stands in the text, not those inside of others: start, end, value."""
    at = 0
    for _ in range(MAX_STARTS):
        start = min((place for bracket in "{[" if (place := text.find(bracket, at)) >= 0), default=-1)
        if start < 0:
            return
        try:
            value, at = _DECODER.raw_decode(text, start)
            yield start, at, value
        except (ValueError, RecursionError):
            at = start + 1
            if (repaired := _repaired(text[start:])) is not None:
                yield start, len(text), repaired
                return


def _repaired(text: str) -> Any | None:
    """The value that begins this text and has no end, up to its last complete part; None if it is not of that kind."""
    open_brackets: list[str] = []
    cut, missing = 0, ""
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found.group()
        if bracket in _CLOSING:
            open_brackets.append(bracket)
            if len(open_brackets) > MAX_DEPTH:
                return None
        elif bracket in {"}", "]"}:
            if not open_brackets or _CLOSING[open_brackets.pop()] != bracket or not open_brackets:
                return None
            cut, missing = found.end(), "".join(_CLOSING[one] for one in reversed(open_brackets))
    if not open_brackets or not cut:
        return None
    try:
        return _DECODER.decode(text[:cut] + missing)
    except (ValueError, RecursionError):
        return None
