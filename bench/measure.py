"""Measure one target for a short while. The targets take turns in short slices, and ratios are taken within a round of
them, so that whatever else the machine does hits all alike.

CPU is counted until all turns are recorded and learned: what is done after the answer belongs to the request's price.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.accounts import Usage, reset_peaks, usage_of
from bench.agents import AgentConversations, AgentLoad
from bench.client import Connection, LoadError
from bench.conversations import Conversations
from bench.known_users import KnownUsers
from bench.load import Load, Tally
from bench.processes import Server
from bench.scenarios import Host, Scenario, Target

_RECORDED = re.compile(rb"^memproxy_turns_recorded_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Measured:
    """One target in one round. Times of requests in ms, CPU in ms a request, memory in MB."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    opening_p50_ms: float | None
    running_p50_ms: float | None
    cpu_ms: float
    """Of the processes that serve."""
    learning_cpu_ms: float
    """Of the process that learns beside them."""
    store_cpu_ms: float
    total_cpu_ms: float
    """All three."""
    client_cpu_ms: float
    """Of the load generator: what limits the figures when it is not small beside the others."""
    peak_mb: float
    store_peak_mb: float
    tools_run: float
    """Tool calls that the client ran, of each turn."""
    memories: float
    """Memories put into a request, on average."""
    degraded: float
    """Share of answers, 0..1."""
    recognised: float | None
    """Share of continued conversations, 0..1."""
    recorded: float | None
    """Turns recorded for each request, 0..1."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that is running."""

    servers: Mapping[Host, Server]
    stores: Mapping[Host, KnownUsers]
    users: Mapping[int, Sequence[str]]
    """By how many memories they have."""
    answers: Mapping[tuple[str, bool], tuple[bytes, str]]
    """What the upstream answers, by model and whether as a stream: the whole body, and the words in it."""


async def measure(bench: Bench, scenario: Scenario, target: Target, *, number: int) -> Measured:
    """Put one target to a scenario for one slice of time, in round `number`; afterwards its store is as it was before.

    Raises:
        LoadError: an answer was wrong, or the target is stuck.
    """
    server, store = bench.servers[target.host], bench.stores.get(target.host)
    body, words = bench.answers[scenario.model, scenario.is_stream]
    seed = f"{scenario.name}-{target.name}-{number}"
    users = bench.users.get(target.memories, ("nobody",))
    conversations_type, load_type = (AgentConversations, AgentLoad) if scenario.runs_tools else (Conversations, Load)
    conversations = conversations_type(scenario, target, answer=words, users=users, seed=seed)
    load = load_type(scenario, target, conversations=conversations, expected=body)
    settles = store if target.remembers else None
    recorded = await _recorded(server) if settles else 0
    try:
        await load.connect(server.port)
        if settles:
            await settles.settled()
        reset_peaks(server.pid)
        before = usage_of(server.pid)
        await load.run()
        if settles:
            await settles.settled()
        after = usage_of(server.pid)
    except ExceptionGroup as failures:
        server.check_alive()
        first = failures.subgroup(LoadError)
        raise LoadError(f"{target.title}: {_innermost(first)}") if first else failures from None
    except TimeoutError:
        server.check_alive()
        raise LoadError(f"{target.title}: its answers did not come in time") from None
    finally:
        load.close()
    share = (await _recorded(server) - recorded) / load.tally.sent if settles else None
    if settles:
        await settles.restore()
    return _summed_up(load.tally, before, after, recorded=share)


def _innermost(failures: BaseExceptionGroup[LoadError]) -> BaseException:
    """The first failure, however deep groups within groups hide it."""
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


async def _recorded(server: Server) -> int:
    """The turns that memproxy has recorded since it was started, by its metrics."""
    connection = await Connection.connected(server.port)
    answer = await connection.ask(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    connection.close()
    return int(sum(float(count) for count in _RECORDED.findall(answer.body)))


def _summed_up(tally: Tally, before: Usage, after: Usage, *, recorded: float | None) -> Measured:
    count = len(tally.latencies_s)
    own_ms = 1000 * (after.own_cpu_s - before.own_cpu_s) / count
    learning_ms = 1000 * (after.beside_cpu_s - before.beside_cpu_s) / count
    store_ms = 1000 * (after.store_cpu_s - before.store_cpu_s) / count
    return Measured(
        requests=count,
        requests_per_s=count / tally.wall_s,
        p50_ms=1000 * percentile(tally.latencies_s, 0.50),
        p95_ms=1000 * percentile(tally.latencies_s, 0.95),
        p99_ms=1000 * percentile(tally.latencies_s, 0.99),
        first_byte_p50_ms=1000 * percentile(tally.first_bytes_s, 0.50),
        opening_p50_ms=1000 * percentile(tally.opening_s, 0.50) if tally.opening_s else None,
        running_p50_ms=1000 * percentile(tally.running_s, 0.50) if tally.running_s else None,
        cpu_ms=own_ms - learning_ms,
        learning_cpu_ms=learning_ms,
        store_cpu_ms=store_ms,
        total_cpu_ms=own_ms + store_ms,
        client_cpu_ms=1000 * tally.client_cpu_s / count,
        peak_mb=after.own_peak_mb,
        store_peak_mb=after.store_peak_mb,
        tools_run=tally.tools_run / count,
        memories=tally.memories / count,
        degraded=tally.degraded / tally.sent,
        recognised=tally.recognised / len(tally.running_s) if tally.running_s and recorded is not None else None,
        recorded=recorded,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies, 0..1; `values` not empty."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
