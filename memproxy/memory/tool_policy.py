"""What the operator says about the agents' tools: which are reads, how long and for whom a result is good.

The text of a file like `config/tools.toml`, where each entry is explained, becomes one frozen `ToolPolicy`. Everything
that is not understood is refused, since an entry that is passed over would be a wrong answer later.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any, NoReturn

from memproxy.errors import SettingsError
from memproxy.memory.tool_kinds import ToolKind, changes_only_by_calls, kind_by_annotations, kind_by_name
from memproxy.records import JsonObject
from memproxy.storage.tool_results import CacheScope, Clear

Globs = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResultRule:
    """How long and for whom results of these tools are good."""

    tools: Globs
    ttl_s: float | None = None
    scope: CacheScope | None = None


@dataclass(frozen=True, slots=True)
class ClearRule:
    """What calls of these tools put out of date."""

    tools: Globs
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """All that is known about tools beforehand. Patterns are globs, in which case counts."""

    ttl_s: float = 300.0
    max_result_bytes: int = 65_536
    max_results: int = 200
    max_session_bytes: int = 2_097_152
    allow: Globs = ()
    deny: Globs = ()
    helpers: Globs = ()
    rules: tuple[ResultRule, ...] = ()
    groups: Mapping[str, Globs] = field(default_factory=dict)
    clears: tuple[ClearRule, ...] = ()

    def kind_of(self, name: str, definition: JsonObject | None) -> ToolKind:
        """What a tool does: this policy says it, else the tool's annotations, else its name."""
        for globs, kind in ((self.deny, ToolKind.WRITE), (self.helpers, ToolKind.HELPER), (self.allow, ToolKind.READ)):
            if _matches(name, globs):
                return kind
        annotated = kind_by_annotations(definition)
        if annotated is ToolKind.READ and not changes_only_by_calls(name):
            return ToolKind.HELPER
        return annotated or kind_by_name(name)

    def ttl_of(self, name: str) -> float:
        """How long a result of this tool is good, in seconds; 0: it is not kept."""
        given = (rule.ttl_s for rule in self.rules if rule.ttl_s is not None and _matches(name, rule.tools))
        return next(given, self.ttl_s)

    def scope_of(self, name: str) -> CacheScope:
        """Who may be answered with a result of this tool."""
        given = (rule.scope for rule in self.rules if rule.scope is not None and _matches(name, rule.tools))
        return next(given, CacheScope.SESSION)

    def groups_of(self, name: str) -> frozenset[str]:
        """The groups that a result of this tool belongs to."""
        return frozenset(group for group, globs in self.groups.items() if _matches(name, globs))

    def clear_of(self, name: str) -> Clear:
        """What a call of this tool puts out of date: everything, unless a rule says less."""
        return next((Clear(rule.groups) for rule in self.clears if _matches(name, rule.tools)), Clear())

    @property
    def scopes(self) -> frozenset[CacheScope]:
        """All scopes that any result may have."""
        return frozenset({CacheScope.SESSION, *(rule.scope for rule in self.rules if rule.scope is not None)})


def _matches(name: str, globs: Globs) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def parse_policy(text: str, *, source: str) -> ToolPolicy:
    """The policy in the text of a tools file; `source` is what messages call it.

    Raises:
        SettingsError: the text is no TOML, or an entry is not understood; the message names the line or the entry.
    """
    reading = _Reading(source)
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"The tools file {source} is not valid TOML: {error}.") from error
    policy = reading.policy(table)
    reading.check_conflicts(policy)
    return policy


_COUNTS = ("max_result_bytes", "max_results", "max_session_bytes")
_GLOBS = ("allow", "deny", "helpers")


class _Reading:
    """Reads one file's tables, and says where it stumbled."""

    def __init__(self, source: str) -> None:
        self._source = source

    def _refuse(self, entry: str, reason: str) -> NoReturn:
        raise SettingsError(f"The tools file {self._source}: {entry} {reason}.")

    def policy(self, table: JsonObject) -> ToolPolicy:
        self._check_names(table, {"ttl_s", *_COUNTS, *_GLOBS, "rules", "groups", "clears"}, "")
        values: JsonObject = {name: self._globs(table[name], name) for name in _GLOBS if name in table}
        values |= {name: self._count(table[name], name) for name in _COUNTS if name in table}
        if "ttl_s" in table:
            values["ttl_s"] = self._seconds(table["ttl_s"], "ttl_s")
        groups = self._groups(table.get("groups", {}))
        rules = [self._rule(entry, place) for entry, place in self._tables(table, "rules")]
        clears = [self._clear(entry, place, groups) for entry, place in self._tables(table, "clears")]
        return ToolPolicy(**values, rules=tuple(rules), groups=groups, clears=tuple(clears))

    def check_conflicts(self, policy: ToolPolicy) -> None:
        lists = {"allow": policy.allow, "deny": policy.deny, "helpers": policy.helpers}
        for (one, ones), (other, others) in combinations(lists.items(), 2):
            for glob in ones:
                if glob in others:
                    self._refuse(f"`{glob}`", f"stands in both `{one}` and `{other}`")

    def _check_names(self, table: JsonObject, known: set[str], place: str) -> None:
        for name in table:
            if name not in known:
                self._refuse(f"`{place}{name}`", f"is not known; known are {', '.join(sorted(known))}")

    def _tables(self, table: JsonObject, name: str) -> Sequence[tuple[JsonObject, str]]:
        entries = table.get(name, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self._refuse(f"`{name}`", f"must be written as tables, each under [[{name}]]")
        return [(entry, f"{name}[{at}]") for at, entry in enumerate(entries, start=1)]

    def _rule(self, entry: JsonObject, place: str) -> ResultRule:
        self._check_names(entry, {"tools", "ttl_s", "scope"}, f"{place}.")
        tools = self._tools(entry, place)
        if not entry.keys() & {"ttl_s", "scope"}:
            self._refuse(f"`{place}`", "says neither `ttl_s` nor `scope`")
        ttl_s = self._seconds(entry["ttl_s"], f"{place}.ttl_s") if "ttl_s" in entry else None
        scope = entry.get("scope")
        if scope is not None and scope not in list(CacheScope):
            self._refuse(f"`{place}.scope`", f"must be one of {', '.join(CacheScope)}, not {scope!r}")
        return ResultRule(tools, ttl_s, None if scope is None else CacheScope(scope))

    def _clear(self, entry: JsonObject, place: str, groups: Mapping[str, Globs]) -> ClearRule:
        self._check_names(entry, {"tools", "groups"}, f"{place}.")
        tools = self._tools(entry, place)
        named = entry.get("groups")
        if not isinstance(named, list) or not all(isinstance(group, str) for group in named):
            self._refuse(f"`{place}.groups`", "must be a list of names from [groups]")
        for group in named:
            if group not in groups:
                self._refuse(f"`{place}.groups`", f"names the group {group!r}, which does not stand under [groups]")
        return ClearRule(tools, frozenset(named))

    def _groups(self, table: Any) -> Mapping[str, Globs]:
        if not isinstance(table, dict):
            self._refuse("`groups`", "must be a table of names, each with a list of tools")
        if "" in table:
            self._refuse("`groups`", "has a group without a name")
        return {name: self._globs(globs, f"groups.{name}") for name, globs in table.items()}

    def _tools(self, entry: JsonObject, place: str) -> Globs:
        tools = self._globs(entry.get("tools"), f"{place}.tools")
        return tools or self._refuse(f"`{place}.tools`", "names no tool")

    def _globs(self, value: Any, place: str) -> Globs:
        if not isinstance(value, list) or not all(isinstance(glob, str) for glob in value):
            self._refuse(f"`{place}`", "must be a list of names or patterns, each a string")
        if not all(glob.strip() for glob in value):
            self._refuse(f"`{place}`", "holds an empty pattern")
        return tuple(value)

    def _seconds(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._refuse(f"`{place}`", f"must be a number of seconds, not {value!r}")
        if value < 0:
            self._refuse(f"`{place}`", f"must not be negative, but is {value}")
        return float(value)

    def _count(self, value: Any, place: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._refuse(f"`{place}`", f"must be a whole number of at least 1, not {value!r}")
        return value
