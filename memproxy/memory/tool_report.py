"""What the tool cache would do in conversations that are over: how often it would answer, and how often wrongly.

A conversation is walked request by request, as the proxy sees it. Before the result of each call the cache is asked for
one; since the agent made the call in truth, what the cache has is compared with what the tool said.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from memproxy.memory.tool_cache import Distrust, Lookup, lessons, result_key, tool_calls
from memproxy.memory.tool_kinds import ToolKind
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.records import JsonObject, ToolCall
from memproxy.storage.tool_results import Drop, Keep, Lessons

_AT = datetime(2000, 1, 1, tzinfo=UTC)
"""Conversations are walked as if no time passed: answers that only the time to live prevents are counted, too."""


@dataclass(frozen=True, slots=True)
class ReplayedCall:
    """One call, and what the cache would have done."""

    name: str
    kind: ToolKind
    repeats: bool
    """The same call was made before in the conversation."""
    answer: object = None
    """What the cache had; None for nothing."""
    result: object = None
    """What the tool said."""
    trusted: bool = True
    """Not asked again after an answer; otherwise the call goes through."""

    @property
    def is_answered(self) -> bool:
        return self.answer is not None and self.trusted

    @property
    def is_wrong(self) -> bool:
        return self.answer is not None and self.answer != self.result


def replay(
    conversation: Sequence[JsonObject], *, tools: Sequence[object] = (), policy: ToolPolicy
) -> Iterator[ReplayedCall]:
    """Each call of a conversation in order.

    Nothing is answered in this replay, as in the mode `observe`: a call that the cache could have answered brings its
    true result, which is kept. A call beside one that changes something is never answered.
    """
    lookup, kept, distrust = Lookup(tools, policy), _Kept(), Distrust()
    new_from = 0
    seen: set[str] = set()
    for position, message in enumerate(conversation):
        if message.get("role") == "user":
            distrust = Distrust()
        if message.get("role") != "assistant":
            continue
        calls = tool_calls(message)
        kept.apply(lessons(conversation[:position], new_from=new_from, tools=tools, policy=policy, at=_AT))
        new_from = position
        changes = any(lookup.kind_of(call.name).clears for call in calls)
        for call, result in zip(calls, _results(conversation, position, calls), strict=True):
            wanted = lookup.wanted(call)
            keep = kept.results.get(wanted.key) if wanted and not changes else None
            same = result_key(call.name, call.arguments, None) or f"{call.name} {call.arguments}"
            yield ReplayedCall(
                call.name,
                lookup.kind_of(call.name),
                same in seen,
                answer=keep.content if keep else None,
                result=result,
                trusted=wanted is None or distrust.trusts(wanted),
            )
            seen.add(same)
            if wanted and keep:
                distrust = distrust.having_answered([wanted])


def _results(conversation: Sequence[JsonObject], position: int, calls: Sequence[ToolCall]) -> list[object]:
    """What the tools said to the calls at `position`; None to those without a result. Calls that share an id are
    answered in their order."""
    said: dict[str, list[object]] = {}
    for message in conversation[position + 1 :]:
        if message.get("role") != "tool":
            break
        said.setdefault(str(message.get("tool_call_id")), []).append(message.get("content"))
    return [said[call.id].pop(0) if said.get(call.id) else None for call in calls]


@dataclass(slots=True)
class _Kept:
    """What the store would hold for one conversation, without bounds and without time."""

    results: dict[str, Keep] = field(default_factory=dict)

    def apply(self, learned: Lessons) -> None:
        for operation in learned.operations:
            if isinstance(operation, Keep):
                self.results[operation.key] = operation
            elif isinstance(operation, Drop):
                self.results.pop(operation.key, None)
            else:
                self.results = {key: keep for key, keep in self.results.items() if not operation.drops(keep.groups)}


_COLUMNS = ("kind", "calls", "repeated", "answered", "wrong", "asked again", "changed by then")


def table(replayed: Iterable[ReplayedCall]) -> list[tuple[str, ...]]:
    """Rows for people: a heading, a row a tool, the sum.

    *repeated* calls were made before in their conversation; *answered* ones the cache would have answered, *wrong* ones
    otherwise than the tool did. *Asked again* are calls that go through, since the model had just been answered;
    *changed by then* are those of them that the cache would have answered wrongly.
    """
    kinds: dict[str, str] = {}
    counts: dict[str, list[int]] = {}
    for call in replayed:
        kinds[call.name] = call.kind
        through = call.answer is not None and not call.trusted
        facts = (True, call.repeats, call.is_answered, call.is_answered and call.is_wrong, through)
        row = counts.setdefault(call.name, [0] * (len(facts) + 1))
        counts[call.name] = [one + fact for one, fact in zip(row, (*facts, through and call.is_wrong), strict=True)]
    rows = [(name, kinds[name], *map(str, counts[name])) for name in sorted(counts)]
    sums = [sum(column) for column in zip(*counts.values(), strict=True)] or [0] * (len(_COLUMNS) - 1)
    return [("tool", *_COLUMNS), *rows, ("all", "", *map(str, sums))]
