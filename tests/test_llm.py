"""Asking a model for JSON: the real client against a scripted server."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, RunningModel, ScriptedModel, in_order
from memproxy.errors import ModelCallError
from memproxy.extraction.strategies import STRATEGIES
from memproxy.llm import JsonModel, model_call_error

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


async def ask(server: RunningModel, *, times: int = 1, timeout_s: float = 5.0, api_key: str | None = "sk-1") -> Any:
    """The last of `times` answers of one JsonModel."""
    answer = None
    async with JsonModel(server.base_url, api_key, "small", timeout_s) as model:
        for _ in range(times):
            answer = await model.ask(system="Be short.", user="How much?", schema_name="amount", schema=SCHEMA)
    return answer


def formats(server: RunningModel) -> list[str | None]:
    return [request.body.get("response_format", {}).get("type") for request in server.model.chat_requests]


def picky(*refused: str | None, status: int = 400) -> ScriptedModel:
    """A server that refuses these answer formats."""

    def answer(request: ModelRequest) -> Reply:
        form = request.body.get("response_format", {}).get("type")
        return Reply(status=status, error=f"no {form}") if form in refused else Reply('{"a": 1}')

    return ScriptedModel(answer)


async def test_the_answer_is_asked_for_by_a_strict_schema() -> None:
    """A model that can be held to the schema is."""
    async with ScriptedModel(lambda _: Reply('{"a": 1}')).serve() as server:
        assert await ask(server) == {"a": 1}
    [request] = server.model.chat_requests
    assert request.body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "amount", "schema": SCHEMA, "strict": True},
    }
    assert request.messages == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How much?"}]
    assert request.model == "small"


@pytest.mark.parametrize("name", STRATEGIES)
async def test_the_schemas_pass_the_providers_checks(name: str) -> None:
    """OpenAI refuses strict schemas that leave a property optional."""
    schema = STRATEGIES[name].schema()
    async with (
        ScriptedModel(lambda _: Reply('{"memories": []}')).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        answer = await model.ask(system="s", user="u", schema_name=name, schema=schema)
    assert answer == {"memories": []}
    assert formats(server) == ["json_schema"]


async def test_calls_tell_memproxy_to_keep_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction through memproxy itself would otherwise be learned from, and that again, for ever."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Memproxy-Memory: full")
    async with ScriptedModel(lambda _: Reply("{}")).serve() as server:
        await ask(server)
    [request] = server.model.chat_requests
    assert [value for name, value in request.headers if name == "x-memproxy-memory"] == ["off"]


async def test_a_model_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a key for another provider, found in the environment, sent to it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with ScriptedModel(lambda _: Reply("{}")).serve() as server:
        await ask(server, api_key=None)
    assert "sk-secret" not in str(server.model.chat_requests[0].headers)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (["json_schema"], ["json_schema", "json_object", "json_object", "json_object"]),
        (["json_schema", "json_object"], ["json_schema", "json_object", None, None, None]),
    ],
)
async def test_a_refused_format_is_stepped_down_from_and_not_tried_again(
    refused: list[str], expected: list[str | None], status: int
) -> None:
    """Every provider can be used, and pays for finding out once."""
    async with picky(*refused, status=status).serve() as server:
        assert await ask(server, times=3) == {"a": 1}
    assert formats(server) == expected


async def test_a_request_that_is_refused_in_every_form_is_not_blamed_on_the_form() -> None:
    """After one bad request the strict schema is still asked for."""
    script = in_order(*(Reply(status=400, error="no") for _ in range(3)), Reply("{}"))
    async with (
        ScriptedModel(script).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        with pytest.raises(ModelCallError) as caught:
            await model.ask(system="s", user="u", schema_name="n", schema=SCHEMA)
        assert not caught.value.retryable
        await model.ask(system="s", user="u", schema_name="n", schema=SCHEMA)
    assert formats(server) == ["json_schema", "json_object", None, "json_schema"]


async def test_a_text_that_is_too_long_is_not_sent_again_in_other_forms() -> None:
    """It would be too long in each of them."""
    refusal = {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}
    async with ScriptedModel(lambda _: Reply(status=400, error=refusal)).serve() as server:
        with pytest.raises(ModelCallError, match="context_length_exceeded") as caught:
            await ask(server)
    assert not caught.value.retryable
    assert len(server.model.chat_requests) == 1


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (401, 403, 404, 413)),
        *((status, True) for status in (408, 409, 429, 500, 502, 503, 529)),
    ],
)
async def test_what_a_refusal_means_for_the_queue(status: int, retryable: bool) -> None:
    """The queue tries again what may pass, gives up what won't; the client itself never sends twice."""
    error = "Incorrect key: sk-123456"
    async with ScriptedModel(lambda _: Reply(status=status, error=error)).serve() as server:
        with pytest.raises(ModelCallError, match=str(status)) as caught:
            await ask(server)
    assert caught.value.retryable is retryable
    assert "sk-" not in str(caught.value)
    assert len(server.model.chat_requests) == 1


async def test_another_model_of_the_endpoint_can_be_named() -> None:
    """Whoever may choose a model needs no second connection, and changes nothing for the others."""
    async with (
        ScriptedModel(lambda _: Reply('{"a": 1}')).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5) as model,
    ):
        for one in (model.named("large"), model):
            assert await one.ask(system="Be short.", user="How much?", schema_name="amount", schema=SCHEMA) == {"a": 1}
    assert [request.model for request in server.model.chat_requests] == ["large", "small"]


async def test_a_silent_server_is_given_up() -> None:
    """A worker's slot is not held for ever."""
    async with ScriptedModel(lambda _: Reply(hang=True)).serve() as server:
        with pytest.raises(ModelCallError) as caught:
            await ask(server, timeout_s=0.1)
    assert caught.value.retryable


async def test_a_server_that_is_not_there_may_come_back(unused_tcp_port: int) -> None:
    """A restart of the model server costs no memory."""
    nowhere = RunningModel(ScriptedModel(), "127.0.0.1", unused_tcp_port)
    with pytest.raises(ModelCallError, match="can't be reached") as caught:
        await ask(nowhere)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"[]",
        b"{}",
        b'"words"',
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": null}}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": "  "}}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": [1]}}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": "I would rather not."}}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": "{\\"a\\": "}}]}',
    ],
)
async def test_an_answer_without_json_is_worth_another_try(body: bytes) -> None:
    """Small models do better the second time; gateways send pages while they restart."""
    async with ScriptedModel(lambda _: Reply(raw_body=body)).serve() as server:
        with pytest.raises(ModelCallError) as caught:
            await ask(server)
    assert caught.value.retryable


async def test_a_refusal_of_the_model_is_final() -> None:
    """It will refuse again."""
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": None, "refusal": "No."}}]}).encode()
    async with ScriptedModel(lambda _: Reply(raw_body=body)).serve() as server:
        with pytest.raises(ModelCallError) as caught:
            await ask(server)
    assert not caught.value.retryable


async def test_cancelling_a_call_closes_its_connection() -> None:
    """A worker that stops lets go of the model server."""
    async with ScriptedModel(lambda _: Reply(hang=True)).serve() as server:
        call = asyncio.get_running_loop().create_task(ask(server))
        await server.model.wait_until(lambda: bool(server.model.chat_requests))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.model.wait_until(lambda: bool(server.model.disconnects))


def kinds_of(root: type[openai.OpenAIError]) -> Iterator[type[openai.OpenAIError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds_of(kind)


def test_every_error_of_the_client_has_a_meaning() -> None:
    """None gets past the door, whatever the next version of the client adds."""
    kinds = set(kinds_of(openai.OpenAIError))
    assert len(kinds) > 15
    for kind in kinds:
        error = kind.__new__(kind)  # their constructors all differ
        if isinstance(error, openai.APIStatusError):
            error.status_code, error.code, error.type, error.param = 503, None, None, None
        meaning = model_call_error(error, model="small")
        assert "small" in str(meaning)
        assert meaning.retryable is isinstance(error, openai.APIError)


async def test_an_answer_that_can_not_be_used_is_shown_to_the_model_once_more() -> None:
    """Told what was wrong, models mend most of their answers, at a fraction of the price of asking anew later."""
    async with ScriptedModel(in_order(Reply("Well..."), Reply('{"a": 2}'))).serve() as server:
        assert await ask(server) == {"a": 2}
    first, second = server.model.chat_requests
    assert second.messages[:2] == first.messages
    assert second.messages[2] == {"role": "assistant", "content": "Well..."}
    assert "no object or list" in second.messages[3]["content"]


async def test_what_can_be_used_is_for_the_caller_to_say() -> None:
    """JSON of another kind than was asked for is mended, too; a second failure is the queue's concern."""

    def amount(answer: str) -> int:
        value = json.loads(answer)
        if not isinstance(value.get("a"), int):
            raise ValueError("a is no number")
        return int(value["a"])

    async with (
        ScriptedModel(in_order(Reply('{"a": "two"}'), Reply('{"a": 2}'), Reply('{"a": "x"}'))).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        assert await model.ask(system="s", user="u", schema_name="n", schema=SCHEMA, read=amount) == 2
        with pytest.raises(ModelCallError, match="a is no number") as caught:
            await model.ask(system="s", user="u", schema_name="n", schema=SCHEMA, read=amount)
    assert caught.value.retryable
    assert len(server.model.chat_requests) == 4


async def test_a_long_answer_is_not_shown_again_in_full() -> None:
    """A model that ran in circles must not be paid for its circles once more."""
    async with ScriptedModel(in_order(Reply("round and " * 5_000), Reply("{}"))).serve() as server:
        await ask(server)
    assert len(server.model.chat_requests[1].messages[2]["content"]) < 9_000


async def test_each_call_says_what_it_cost() -> None:
    """A budget counts answers that were of no use, too."""
    spent: list[int] = []
    async with (
        ScriptedModel(in_order(Reply("Well..."), Reply("Hm."))).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        with pytest.raises(ModelCallError):
            await model.ask(system="s", user="u", schema_name="n", schema=SCHEMA, spent=spent.append)
    assert len(spent) == 2
    assert 0 < spent[0] < spent[1]


async def test_a_server_that_does_not_say_what_it_cost_is_counted_for() -> None:
    """Model servers of one's own often send no usage."""
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": '{"a": 1}'}}]}).encode()
    spent: list[int] = []
    async with (
        ScriptedModel(lambda _: Reply(raw_body=body)).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        await model.ask(system="word " * 50, user="u", schema_name="n", schema=SCHEMA, spent=spent.append)
    assert 50 < spent[0] < 80
