"""The ways to make memories of what was said, as a table; pure.

A strategy is a row of `STRATEGIES`: instructions in `prompts/`, a schema for the answer, what of a session's part the
model is shown, and how its answer becomes records. A session may have several; each does its own reading.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

from memproxy.extraction import custom, facts, summary
from memproxy.extraction.facts import Maker
from memproxy.extraction.prompting import Part, prompt_of
from memproxy.records import JsonObject, MemoryRecord, StrategyChoice

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to make memories of a part of a session."""

    name: str
    schema: Callable[[], JsonObject]
    """The answer's JSON schema, within what OpenAI's strict mode takes."""
    prompt: Callable[[Part, Options, str], str]
    """What the model is shown; the last argument is the model's name."""
    read: Callable[[str, Part, Maker], list[MemoryRecord]]
    """The memories in an answer; raises ValueError, with a reason for the model, when it can't be used."""
    fault: Callable[[Options], str | None]
    """Why these options can't be used, or None."""
    keeps_one_text: bool = False
    """It has one memory a session, which is shown to the model and replaced, and is compared with no other."""
    only_semantic: bool = False

    def instructions(self) -> str:
        """The system prompt. Cost: reads a file."""
        return read_prompt(self.name)


def read_prompt(name: str) -> str:
    """One of the texts in `prompts/`."""
    return (resources.files("memproxy.extraction") / "prompts" / f"{name}.md").read_text(encoding="utf-8")


def check_strategy(name: str, config: Options) -> str | None:
    """Why a strategy can't be used with these options, in words for whoever chose it; None when it can.

    Options that no strategy knows are let pass and kept: clients of agent-memory-server send some.
    """
    strategy = STRATEGIES.get(name)
    if strategy is None:
        return f"there is no strategy {name[:60]!r}; there are {', '.join(STRATEGIES)}"
    return strategy.fault(config)


def usable(choices: Iterable[StrategyChoice]) -> list[StrategyChoice]:
    """The choices that can be used, each once: what was queued before a check was stricter must not stop a queue."""
    kept: list[StrategyChoice] = []
    for choice in choices:
        if choice not in kept and check_strategy(choice.name, choice.config) is None:
            kept.append(choice)
    return kept


def _no_fault(_: Options) -> None:
    return None


def _shown(part: Part, _: Options, __: str) -> str:
    return prompt_of(part)


def _read_facts(answer: str, part: Part, maker: Maker) -> list[MemoryRecord]:
    return facts.read_facts(answer, part, maker=maker)


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "discrete": Strategy("discrete", facts.facts_schema, prompt=_shown, read=_read_facts, fault=_no_fault),
        "summary": Strategy(
            "summary",
            summary.summary_schema,
            prompt=lambda part, options, _: summary.summary_prompt(part, options),
            read=lambda answer, part, maker: summary.read_summary(answer, part, config=maker.config),
            fault=summary.options_fault,
            keeps_one_text=True,
        ),
        "preferences": Strategy(
            "preferences", facts.facts_schema, prompt=_shown, read=_read_facts, fault=_no_fault, only_semantic=True
        ),
        "custom": Strategy(
            "custom",
            facts.facts_schema,
            prompt=lambda part, options, model: custom.custom_prompt(part, options, model_name=model),
            read=_read_facts,
            fault=custom.prompt_fault,
        ),
    }
)
"""Every strategy by its name, which is also the name of its prompt."""
