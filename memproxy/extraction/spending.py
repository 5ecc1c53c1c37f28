"""What the background model may cost: a budget of tokens for each tenant and day, and the count of what was spent.

A call is made while there is budget left, and counted when it was answered, so a day ends at most a few calls beyond
its budget. A day is one of UTC. Counting that fails is no reason to do the work again.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from memproxy.errors import BudgetSpentError, StoreError
from memproxy.records import JsonObject

log = logging.getLogger(__name__)


class Asks(Protocol):
    """A model that answers in JSON."""

    async def ask(
        self,
        *,
        system: str,
        user: str,
        schema_name: str,
        schema: JsonObject,
        read: Callable[[str], Any],
        spent: Callable[[int], None],
    ) -> Any:
        """What `read` makes of the answer, which it may refuse by a ValueError; raises ModelCallError."""


class Counts(Protocol):
    """Counts the tokens of tenants and days."""

    async def spent(self, tenant: str, day: date) -> int: ...
    async def add(self, tenant: str, day: date, tokens: int) -> int: ...


class Spending:
    """What one run of work spends, for one tenant. `tokens` is the sum so far."""

    def __init__(self, tenant: str, budget: "Budget") -> None:
        self.tokens = 0
        self._tenant = tenant
        self._budget = budget

    async def ask(self, model: Asks, question: "Question") -> Any:
        """The answer to a question; raises ModelCallError, and BudgetSpentError instead of asking."""
        await self._budget.require(self._tenant)
        before = self.tokens
        try:
            return await model.ask(
                system=question.system,
                user=question.user,
                schema_name=question.name,
                schema=question.schema,
                read=question.read,
                spent=self._count,
            )
        finally:
            await self._budget.add(self._tenant, self.tokens - before)

    def _count(self, tokens: int) -> None:
        self.tokens += tokens


@dataclass(frozen=True, slots=True)
class Question:
    """One call of a model."""

    name: str
    """Of the schema, as the provider is told."""
    system: str
    user: str
    schema: JsonObject
    read: Callable[[str], Any]
    """Makes something of the answer, or raises ValueError with the reason why that can't be."""


class Budget:
    """The tokens that each tenant's memory may cost a day. `daily_tokens` 0: any number, and nothing is counted."""

    def __init__(self, counts: Counts | None, *, daily_tokens: int, now: Callable[[], datetime]) -> None:
        self._counts = counts
        self._daily_tokens = daily_tokens
        self._now = now

    async def require(self, tenant: str) -> None:
        """Raises BudgetSpentError when the day's tokens are spent; it says when there are new ones."""
        if self._counts is None or not self._daily_tokens:
            return
        now = self._now()
        if await self._counts.spent(tenant, now.date()) >= self._daily_tokens:
            tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            raise BudgetSpentError(
                f"the {self._daily_tokens} tokens of this day (extraction_daily_tokens) are spent",
                retry_after_s=(tomorrow - now).total_seconds(),
            )

    async def add(self, tenant: str, tokens: int) -> None:
        """Count what was spent."""
        if self._counts is None or not self._daily_tokens or tokens <= 0:
            return
        with contextlib.suppress(StoreError):
            await self._counts.add(tenant, self._now().date(), tokens)
