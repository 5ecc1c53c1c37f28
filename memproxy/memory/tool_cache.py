"""Which tool calls may be answered with an earlier result, and what a conversation teaches about results.

An agent runs its tools itself and delivers each result as a message, so memproxy sees calls and results pass by. A
result of a read is good for an identical call until it is too old, or until a call that may have changed something: any
call of a tool that is not known to be a read or a helper. Measured on real agents: without that rule a quarter of the
answers is wrong, with it none (`tool_report` measures it for any conversation).

Pure. `Lookup` knows a request's tools; `lessons` turns its new messages into operations for the store; `Distrust` keeps
a model that asks again from being given the same answer again.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from memproxy.memory.tool_kinds import ToolKind
from memproxy.memory.tool_outcome import is_cacheable_result
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.records import JsonObject, ToolCall
from memproxy.storage.schema import digest_of
from memproxy.storage.tool_results import Clear, Drop, Keep, Lessons, Operation, ToolContent, Wanted

_NO_JSON = "\0"
"""Stands where arguments are free text."""

_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")


def result_key(name: str, arguments: str, definition: JsonObject | None) -> str | None:
    """What stands for a call: equal for calls that ask the same thing of the same tool. None: can't be told.

    The definition is part of it: a tool whose schema or description was changed is another tool. In the arguments, the
    order of keys, white space, escapes and the way numbers are written (1, 1.0, 1e0) make no difference; no arguments
    are an empty object. Arguments that are no JSON, or name a key twice, have no key.
    """
    try:
        given = _canonical(_parsed(arguments.strip() or "{}"))
        defined = None if definition is None else _canonical(_parsed(json.dumps(definition)))
    except (ValueError, RecursionError):
        return None
    return digest_of(name, defined, given)


class _Number(str):
    """A JSON number in one spelling."""

    __slots__ = ()


def _parsed(text: str) -> Any:
    return json.loads(
        text, parse_int=_number, parse_float=_number, parse_constant=_refuse_constant, object_pairs_hook=_object
    )


def _number(text: str) -> _Number:
    """Digits without zeros at either end, and a power of ten. Exact: nothing is rounded, so nothing collides."""
    found = _NUMBER.fullmatch(text)
    assert found is not None, "the JSON parser passes on nothing but numbers"
    sign, whole, fraction, exponent = found[1], found[2], found[3] or "", found[4] or "0"
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return _Number("0")
    bare = digits.rstrip("0")
    return _Number(f"{sign}{bare}e{int(exponent) - len(fraction) + len(digits) - len(bare)}")


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _canonical(value: Any) -> str:
    match value:
        case _Number():
            return value
        case dict():
            return "{" + ",".join(f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
        case list():
            return "[" + ",".join(map(_canonical, value)) + "]"
        case _:
            return json.dumps(value)


class Lookup:
    """What is known about the tools of one request."""

    def __init__(self, tools: Sequence[object], policy: ToolPolicy) -> None:
        self._policy = policy
        self._definitions: dict[str, JsonObject] = {}
        for definition in tools:
            if isinstance(definition, dict) and (name := _name_of(definition)) is not None:
                self._definitions.setdefault(name, definition)

    def kind_of(self, name: str) -> ToolKind:
        """What the tool of this name does."""
        return self._policy.kind_of(name, self._definitions.get(name))

    def may_answer(self, name: str) -> bool:
        """Whether any call of this tool could be answered here: what can't need not be held back."""
        is_text = self._definitions.get(name, {}).get("type") == "custom"
        return not is_text and self._policy.ttl_of(name) > 0 and self.kind_of(name) is ToolKind.READ

    def wanted(self, call: ToolCall) -> Wanted | None:
        """Where a result for this call would be; None when it must not be answered here."""
        if not self.may_answer(call.name):
            return None
        key = result_key(call.name, call.arguments, self._definitions.get(call.name))
        return None if key is None else Wanted(key, call.name, self._policy.scope_of(call.name))

    def clear_of(self, name: str) -> Clear | None:
        """What a call of this tool puts out of date; None for nothing."""
        return self._policy.clear_of(name) if self.kind_of(name).clears else None

    def learned(self, call: ToolCall, content: object, *, at: datetime, is_fresh: bool) -> Operation | None:
        """What this result of a call teaches; None for nothing, when the call is no read."""
        wanted = self.wanted(call)
        if wanted is None:
            return None
        if not is_fresh or not isinstance(content, str | list) or not self._is_kept(content):
            return Drop(wanted.key, wanted.scope)
        ttl_s, groups = self._policy.ttl_of(call.name), self._policy.groups_of(call.name)
        return Keep(wanted.key, call.name, content, at, ttl_s, wanted.scope, groups)

    def _is_kept(self, content: ToolContent) -> bool:
        try:
            size = len(json.dumps(content, ensure_ascii=False).encode())
        except (UnicodeEncodeError, ValueError, RecursionError):
            return False
        return size <= self._policy.max_result_bytes and is_cacheable_result(content)


def _name_of(definition: Mapping[str, Any]) -> str | None:
    """A tool's name, in the form of chat completions, of responses, or of the `functions` of old."""
    for holder in (definition.get("function"), definition.get("custom"), definition):
        if isinstance(holder, dict) and isinstance(holder.get("name"), str):
            return str(holder["name"])
    return None


def lessons(
    conversation: Sequence[JsonObject],
    *,
    new_from: int,
    tools: Sequence[object],
    policy: ToolPolicy,
    at: datetime,
) -> Lessons:
    """What the messages from `new_from` on teach about results; earlier ones only tell what was asked.

    `conversation` is what the client sent, without exchanges that were hidden from it: an answer that memproxy gave
    itself is not a result, and would make itself young again. The answer that follows may stand at its end.

    A call that may change something clears when it is asked, and again when its result comes; results of calls that
    were asked together with it are not kept, since nobody knows which came first. Only results that were delivered
    just now are kept: one from further back in a conversation that is new here is of unknown age.
    """
    lookup = Lookup(tools, policy)
    fresh_from = _fresh_from(conversation)
    operations: list[Operation] = []
    for position in range(new_from, len(conversation)):
        message = conversation[position]
        if message.get("role") == "assistant":
            operations += _clears(tool_calls(message), lookup)
        elif message.get("role") in ("tool", "function"):
            is_fresh = position >= fresh_from
            operations += _of_result(conversation, position, lookup, at=at, is_fresh=is_fresh)
    return Lessons(tuple(_effective(operations)), at, policy.scopes)


def _fresh_from(conversation: Sequence[JsonObject]) -> int:
    """Where the results begin that answer the newest calls; an answer at the very end is not what they answer."""
    places = [at for at, message in enumerate(conversation) if message.get("role") == "assistant"]
    if places and places[-1] == len(conversation) - 1:
        places.pop()
    return places[-1] + 1 if places else 0


def _clears(calls: Iterable[ToolCall], lookup: Lookup) -> list[Operation]:
    return [clear for call in calls if (clear := lookup.clear_of(call.name)) is not None]


def _of_result(
    conversation: Sequence[JsonObject], position: int, lookup: Lookup, *, at: datetime, is_fresh: bool
) -> list[Operation]:
    asked = _asked(conversation, position)
    if asked is None:
        return [Clear()]  # of what, nobody knows
    call, together = asked
    if _clears(together, lookup):
        return _clears([call], lookup)
    operation = lookup.learned(call, conversation[position].get("content"), at=at, is_fresh=is_fresh)
    return [] if operation is None else [operation]


def _asked(conversation: Sequence[JsonObject], position: int) -> tuple[ToolCall, Sequence[ToolCall]] | None:
    """The call that the result at `position` answers, with all calls of its message; None when it was not seen.

    Ids may repeat in a conversation: the nearest call before it is meant. Several calls of one message that share an id
    are answered in their order.
    """
    wanted = conversation[position].get("tool_call_id")
    earlier_results = 0
    for message in reversed(conversation[:position]):
        if message.get("role") == "tool" and message.get("tool_call_id") == wanted:
            earlier_results += 1
        elif message.get("role") == "assistant":
            calls = tool_calls(message)
            named = [call for call in calls if call.id == wanted]
            if named:
                return named[min(earlier_results, len(named) - 1)], calls
    return None


def _effective(operations: Sequence[Operation]) -> Sequence[Operation]:
    """Without what a later operation undoes or repeats."""
    everything = [at for at, operation in enumerate(operations) if operation == Clear()]
    rest = operations[everything[-1] :] if everything else operations
    return [one for at, one in enumerate(rest) if at == 0 or one != rest[at - 1]]


def tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls that an assistant message asks for, those in the form of old included.

    Free text for a custom tool counts as broken arguments: it is not compared.
    """
    asked, legacy = message.get("tool_calls"), message.get("function_call")
    calls = [call for call in asked if isinstance(call, dict)] if isinstance(asked, list) else []
    found = [_call(call.get("id"), call.get("function") or call.get("custom")) for call in calls]
    return (*found, _call(None, legacy)) if isinstance(legacy, dict) else tuple(found)


def _call(identifier: object, called: object) -> ToolCall:
    function = called if isinstance(called, dict) else {}
    arguments = function.get("arguments", _NO_JSON if "input" in function else "")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(id=str(identifier), name=str(function.get("name")), arguments=text)


@dataclass(frozen=True, slots=True)
class Distrust:
    """Calls that were answered here since the user's last message: asked again, they go through to the agent.

    A model that asks for what it has just been told wants to know whether it is still so.
    """

    answered: frozenset[str] = frozenset()
    """Keys of the calls."""

    @classmethod
    def of(cls, answered: Iterable[JsonObject], lookup: Lookup) -> Self:
        """From the assistant messages since the user's last one whose calls were answered here."""
        wanted = (lookup.wanted(call) for message in answered for call in tool_calls(message))
        return cls(frozenset(one.key for one in wanted if one is not None))

    def trusts(self, wanted: Wanted) -> bool:
        """Whether this call may be answered here."""
        return wanted.key not in self.answered

    def having_answered(self, wanted: Iterable[Wanted]) -> Self:
        """What holds after these calls were answered here."""
        return type(self)(self.answered | {one.key for one in wanted})
