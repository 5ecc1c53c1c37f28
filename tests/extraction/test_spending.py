"""What the background model may cost."""

from datetime import UTC, date, datetime, timedelta

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.demo.scripted_model import Reply, ScriptedModel, in_order
from memproxy.errors import BudgetSpentError, ModelCallError, StoreError
from memproxy.extraction.spending import Budget, Question, Spending
from memproxy.llm import JsonModel
from memproxy.loose_json import read_json
from memproxy.storage.spent_tokens import SpentTokens
from tests.fakes.learning import MONDAY

QUESTION = Question("n", "Be short.", "How much?", {"type": "object"}, read_json)


async def test_what_is_spent_is_counted_for_tenant_and_day(redis: Redis) -> None:
    """One customer's flood does not stop another's memory, and tomorrow is another day."""
    now = MONDAY
    counts = SpentTokens(redis)
    budget = Budget(counts, daily_tokens=10, now=lambda: now)
    async with (
        ScriptedModel(lambda _: Reply("{}")).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        spending = Spending("acme", budget)
        assert await spending.ask(model, QUESTION) == {}
        assert spending.tokens == await counts.spent("acme", now.date()) > 10
        with pytest.raises(BudgetSpentError) as caught:
            await Spending("acme", budget).ask(model, QUESTION)
        assert caught.value.retry_after_s == timedelta(hours=10, minutes=4).total_seconds()
        await Spending("other", budget).ask(model, QUESTION)
        now = datetime(2023, 5, 9, tzinfo=UTC)
        await Spending("acme", budget).ask(model, QUESTION)
    assert len(server.model.chat_requests) == 3


async def test_answers_of_no_use_are_counted_too(redis: Redis) -> None:
    """They cost what good ones cost."""
    counts = SpentTokens(redis)
    spending = Spending("acme", Budget(counts, daily_tokens=1_000, now=lambda: MONDAY))
    async with (
        ScriptedModel(in_order(Reply("Hm."), Reply("Well."))).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        with pytest.raises(ModelCallError):
            await spending.ask(model, QUESTION)
    assert await counts.spent("acme", MONDAY.date()) == spending.tokens > 0


async def test_without_a_limit_nothing_is_looked_up(redis: Redis) -> None:
    """Who sets no budget pays no round trips for it."""
    spending = Spending("acme", Budget(SpentTokens(redis), daily_tokens=0, now=lambda: MONDAY))
    async with (
        ScriptedModel(lambda _: Reply("{}")).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        await spending.ask(model, QUESTION)
    assert await redis.keys("*") == []


class Broken(SpentTokens):
    """A store that fails when it should count."""

    @override
    async def add(self, tenant: str, day: date, tokens: int) -> int:
        raise StoreError("away")


async def test_counting_that_fails_costs_no_second_call(redis: Redis) -> None:
    """The answer is there; to pay for it again would be the worse mistake."""
    spending = Spending("acme", Budget(Broken(redis), daily_tokens=10, now=lambda: MONDAY))
    async with (
        ScriptedModel(lambda _: Reply("{}")).serve() as server,
        JsonModel(server.base_url, "sk-1", "small", 5.0) as model,
    ):
        assert await spending.ask(model, QUESTION) == {}
