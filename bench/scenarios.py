"""What `relay` measures: the scenarios, and the targets that each of them is put to."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

CHAT = "/v1/chat/completions"
OTHER_PATH = "/v1/engines/any/chat/completions"
"""Not a path with memory, so memproxy passes it through; the scripted model gives it the same answers."""

USUAL_MEMORIES = 100
MANY_MEMORIES = 5_000
IN_ALL = 100_000
"""Memories in each store; those of users who never ask fill it up."""


class Host(enum.StrEnum):
    """A server that the bench starts."""

    UPSTREAM = "upstream"
    FLOOR = "floor"
    MEMPROXY = "memproxy"
    APART = "memproxy-apart"
    """memproxy whose turns nobody learns from: the workers are thought of as running elsewhere."""
    NGINX = "nginx"
    LITELLM = "litellm"


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and how."""

    name: str
    title: str
    host: Host
    path: str = CHAT
    headers: Mapping[str, str] = field(default_factory=dict)
    remembers: bool = False
    """The answer must carry the signs of memory, and the turn must be recorded."""
    is_named: bool = False
    """The client names its session; otherwise it is recognised by the history that is sent again."""
    memories: int = USUAL_MEMORIES
    """Memories that each user has before."""
    patience: float = 1.0
    """Its slices are so many times as long, lest a slow one answers too few requests to tell their percentiles."""
    is_verbatim: bool = True
    """Its answers are the upstream's, byte by byte; otherwise they say the same in other words of JSON."""
    is_usual: bool = True


UNCOMPRESSED: Mapping[str, str] = {"accept-encoding": "identity"}
"""Who would compress its answers is spared that: the others hand on what they get."""
OWN_TOOLS: Mapping[str, str] = {"x-memproxy-tool-cache": "off"}

TARGETS = (
    Target("upstream", "bare upstream", Host.UPSTREAM),
    Target("floor", "floor relay", Host.FLOOR),
    Target("nginx", "nginx", Host.NGINX),
    Target("passthrough", "memproxy, pass-through", Host.MEMPROXY, path=OTHER_PATH),
    Target("apart", "memory, workers apart", Host.APART, remembers=True),
    Target("many", "the same, 5,000 a user", Host.APART, remembers=True, memories=MANY_MEMORIES),
    Target("memory", "memory, with learning", Host.MEMPROXY, remembers=True),
    Target("litellm", "LiteLLM proxy", Host.LITELLM, headers=UNCOMPRESSED, patience=3.0, is_verbatim=False),
    Target("off", "memproxy, memory off", Host.MEMPROXY, headers={"x-memproxy-memory": "off"}, is_usual=False),
    Target("named", "memory, named session", Host.APART, remembers=True, is_named=True, is_usual=False),
    Target(
        "own-tools", "memory, the agent runs its tools", Host.APART, CHAT, OWN_TOOLS, remembers=True, is_usual=False
    ),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load."""

    name: str
    title: str
    connections: int
    model: str = "bench-1kb"
    is_stream: bool = False
    history_bytes: int = 0
    """Of earlier messages, which the client sends along from its first request on, about 600 bytes each."""
    turns: int = 2
    """Requests of a conversation: the first opens it, each further one sends all before it again."""
    at_once: int = 4
    """Conversations that each connection leads alternately, so that none goes on the moment it was answered."""
    is_running: bool = False
    """The first request of each conversation is sent before the clock is started."""
    slice_s: float = 0.9
    targets: tuple[str, ...] = ()
    """Names of those that it is about; the usual ones where there is none."""
    runs_tools: bool = False
    """The client is an agent: a turn ends when the model asks for no tool any more. Times and CPU are a turn's."""
    is_usual: bool = True


SCENARIOS = (
    Scenario("1kb-c1", "1 KB, 1 connection", 1),
    Scenario("1kb-c16", "1 KB, 16 connections", 16),
    Scenario("1kb-c64", "1 KB, 64 connections", 64),
    Scenario(
        "4-messages-c16",
        "4 messages, 16 connections",
        16,
        turns=3,
        is_running=True,
        targets=("upstream", "floor", "apart"),
    ),
    Scenario(
        "60kb-c16",
        "60 KB of history (114 messages), 16 connections",
        16,
        history_bytes=60_000,
        turns=12,
        at_once=2,
        is_running=True,
    ),
    Scenario("stream-c16", "stream of 50 events, 16 connections", 16, is_stream=True),
    Scenario("slow-c16", "stream of 50 events 10 ms apart, 16 connections", 16, "bench-slow-stream", True, slice_s=2.5),
    Scenario(
        "tools-c1",
        "an agent with a tool, 1 connection",
        1,
        "bench-lookup",
        turns=24,
        at_once=16,
        is_running=True,
        runs_tools=True,
        slice_s=1.5,
        targets=("upstream", "own-tools", "apart"),
    ),
    Scenario("opening-c16", "1 KB, 16 connections, only first requests", 16, turns=1, is_usual=False),
    Scenario("answer-60kb-c16", "answers of 60 KB, 16 connections", 16, "bench-60kb", is_usual=False),
)


USERS = {USUAL_MEMORIES: 64, MANY_MEMORIES: 8}
"""How many users there are, by how many memories each has: enough that a slice hardly adds to what one user has."""

QUICK_SLICE_S = 0.1
QUICK_USERS = {USUAL_MEMORIES: 16, MANY_MEMORIES: 1}
QUICK_IN_ALL = 7_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run of the bench measures."""

    scenarios: Sequence[Scenario]
    targets: Sequence[Target]
    """Of the usual scenarios."""
    rounds: int
    users: Mapping[int, int]
    settings: Mapping[str, str]
    """Environment of memproxy."""
    in_all: int = 0
    """Memories in each store, at least."""

    def targets_of(self, scenario: Scenario) -> Sequence[Target]:
        """Whom this scenario is put to."""
        if scenario.targets:
            return [target for target in TARGETS if target.name in scenario.targets]
        return self.targets

    def all_targets(self) -> Sequence[Target]:
        """Whom any scenario is put to, each once."""
        found = {target.name: target for scenario in self.scenarios for target in self.targets_of(scenario)}
        return list(found.values())

    def order(self, scenario: Scenario) -> Iterator[tuple[int, Target]]:
        """Round and target, one after the other: in every other round backwards, so that nobody is always first."""
        targets = self.targets_of(scenario)
        for number in range(self.rounds):
            for target in targets if number % 2 == 0 else reversed(targets):
                yield number, target


def quick(scenario: Scenario) -> Scenario:
    """The same for a quick look: too short to compare figures, long enough to see that all is whole."""
    return replace(scenario, at_once=1, slice_s=QUICK_SLICE_S)
