"""What makes memories of turns, put together as the settings say."""

from typing import Any

from memproxy.clock import Clock
from memproxy.errors import SettingsError
from memproxy.extraction.extract import Extractor, Means
from memproxy.extraction.spending import Budget
from memproxy.extraction.strategies import check_strategy
from memproxy.extraction.summaries import RollingSummaries
from memproxy.llm import JsonModel
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import StrategyChoice
from memproxy.settings import Settings
from memproxy.storage.done_marks import DoneMarks
from memproxy.storage.repeated_lines import RepeatedLines
from memproxy.storage.session_summaries import SessionSummaries
from memproxy.storage.spent_tokens import SpentTokens
from memproxy.storage.working import SessionStore

Client = Any
"""The store's client, whose type is known to `storage` alone."""


def budget_of(settings: Settings, redis: Client, clock: Clock) -> Budget:
    """What the background model may cost each tenant a day."""
    return Budget(SpentTokens(redis), daily_tokens=settings.extraction_daily_tokens, now=clock.now)


def make_extractor(
    settings: Settings,
    redis: Client,
    *,
    long_term: LongTermMemory,
    sessions: SessionStore,
    model: JsonModel | None,
    budget: Budget,
    unrelated: float,
) -> Extractor:
    """What makes memories of turns, with a model where there is one. `unrelated`: see `Embedder`.

    Raises:
        SettingsError: a strategy that is configured can't be used.
    """
    zone, means = settings.zone, None
    if model is not None:
        means = Means(
            model,
            model.named(settings.extraction_small_model) if settings.extraction_small_model else model,
            model_name=settings.extraction_model,
            marks=DoneMarks(redis),
            budget=budget,
            rolling=RollingSummaries(SessionSummaries(redis), sessions, model, zone=zone),
        )
    lines, choices = RepeatedLines(redis), strategies_of(settings)
    return Extractor(long_term, means=means, lines=lines, choices=choices, zone=zone, unrelated=unrelated)


def strategies_of(settings: Settings) -> list[StrategyChoice]:
    """How memories are made of sessions that choose nothing; raises SettingsError for what can't be used."""
    choices = []
    for name in filter(None, map(str.strip, settings.extraction_strategies.split(","))):
        config = {"custom_prompt": settings.extraction_custom_prompt} if name == "custom" else {}
        if fault := check_strategy(name, config):
            raise SettingsError(f"extraction_strategies: {fault}.")
        choices.append(StrategyChoice(name, config))
    return choices
