"""Prompts that users of the memory API write themselves: checked when they come, filled in when they are used; pure.

A prompt may name what is put into it: `{message}`, `{user_id}`, ... Nothing else is filled in, and what is put in is
not looked at again, so no words of a conversation can name a variable. A prompt is checked for its form alone; what it
says is its author's business, whose own memories come of it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from memproxy.extraction.prompting import Part, as_json, conversation, prompt_of
from memproxy.extraction.spoken import day

MAX_PROMPT_CHARS = 10_000

VARIABLES = (
    *("message", "current_datetime", "session_id", "namespace", "user_id", "model_name", "context", "topics"),
    "entities",
)
"""What a prompt may name. Source: agent-memory-server's custom strategy."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_NAMES_SOMETHING = re.compile(r"\s*[^\W\d]")


def prompt_fault(config: Mapping[str, Any]) -> str | None:
    """Why the options of a custom strategy can't be used, or None."""
    prompt = config.get("custom_prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return "the custom strategy needs a custom_prompt: the words that tell a model what to remember"
    if len(prompt) > MAX_PROMPT_CHARS:
        return f"custom_prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARS} are possible"
    for found in _BRACES.finditer(prompt):
        name = found.group(1)
        if name is not None and _NAMES_SOMETHING.match(name) and name not in VARIABLES:
            known = ", ".join(f"{{{one}}}" for one in VARIABLES)
            return (
                f"custom_prompt names {{{name[:60]}}}, which is not filled in; {known} are."
                " For a brace that stands for itself write {{ or }}"
            )
    return None


def custom_prompt(part: Part, config: Mapping[str, Any], *, model_name: str) -> str:
    """The author's words with what they name filled in, and the conversation behind them unless they name that."""
    template = str(config.get("custom_prompt", ""))
    values = _values(part, config, model_name=model_name)
    is_doubled = "{{" in template

    def filled(found: re.Match[str]) -> str:
        written = found.group()
        if written in {"{{", "}}"}:
            return written[0] if is_doubled else written
        return values.get(found.group(1), written)

    task = _BRACES.sub(filled, template).strip()
    if "{message}" in template:
        return task
    return f"{task}\n\nThe conversation:\n\n{prompt_of(part)}"


def _values(part: Part, config: Mapping[str, Any], *, model_name: str) -> Mapping[str, str]:
    shown = conversation(part)
    newest = max((one.at for one in part.said), default=None)
    at = newest.astimezone(part.zone) if newest else None
    return MappingProxyType(
        {
            "message": as_json({"messages": shown["messages"]}),
            "current_datetime": f"{at:%A} {day(at)} {at:%H:%M} {part.zone}" if at else "",
            "session_id": part.session,
            "namespace": part.scope.namespace or "",
            "user_id": part.scope.user or "",
            "model_name": model_name,
            "context": as_json({name: shown[name] for name in ("people", "known", "context") if shown.get(name)}),
            "topics": _listed(config.get("topics")),
            "entities": _listed(config.get("entities")),
        }
    )


def _listed(value: object) -> str:
    return ", ".join(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else ""
