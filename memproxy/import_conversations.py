"""The command `memproxy import`: past conversations into sessions and the queue, as if they had come through the proxy.

A file has one conversation a line, a JSON object with `messages` in OpenAI's form, and optionally:

| field | meaning |
|---|---|
| `user`, `session`, `namespace` | whose it is; or what the proxy understands, such as `metadata.user_id` |
| `created_at` | when it took place: ISO 8601, or seconds since 1970 |
| `created_at` or `timestamp` of a message | when it was said; without it, when the one before was |

A session without a name gets one from its content. So importing a file again adds what is not there yet and nothing
else: a run that was broken off is simply repeated, and a conversation with a name may have grown since.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from memproxy.errors import BadIdentityError, SettingsError, StoreError
from memproxy.identity import checked, read_claims
from memproxy.proxy.conversation import flags_of, instructions_digest, read_conversation
from memproxy.proxy.record import counted
from memproxy.proxy.turns import CONTEXT_MESSAGES
from memproxy.records import JsonObject, Outcome, Scope, SessionKey, StoredMessage, Turn
from memproxy.services import Services, open_services
from memproxy.settings import Settings
from memproxy.storage.deadline import within
from memproxy.storage.pressure import Pressure
from memproxy.storage.queue import encode_turn
from memproxy.storage.schema import digest_of
from memproxy.storage.working import LoadedSession, NewTurn
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Request

TIMES = ("created_at", "timestamp")
"""Fields of a message that say when it was said; they are no part of it."""

CONFLICT_ATTEMPTS = 5
"""How often a conversation is planned anew because its session grew meanwhile."""

PRESSURE_POLL_S = 5.0
LOOK_EVERY = 50
"""Conversations between two looks at the store's memory."""

DEADLINE_S = 30.0
"""For one step with the store."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for conversations that do not say it themselves."""

    user: str | None = None
    namespace: str | None = None
    session_prefix: str = "import-"


@dataclass(frozen=True, slots=True)
class Past:
    """One conversation of a file."""

    key: SessionKey
    is_named: bool
    request: Request
    """Its messages, without what is the file's own."""
    times: tuple[datetime, ...]
    """Of each message behind the instructions."""

    @property
    def said(self) -> tuple[JsonObject, ...]:
        """The messages behind the instructions."""
        return self.request.conversation


@dataclass(slots=True)
class Tally:
    """What became of a file."""

    imported: int = 0
    """Conversations of which something was new."""
    known: int = 0
    turns: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    """Line and reason."""


def read_line(line: bytes, *, tenant: str, defaults: Defaults, now: datetime) -> Past:
    """The conversation in a line.

    Raises:
        ValueError: it is none, or nobody's; the message says what is missing.
    """
    request = CHAT_COMPLETIONS.read(line)
    if request is None:
        raise ValueError("no JSON object with a list of messages, each with a role")
    try:
        named = {
            name: checked(name, value, source="the line")
            for name in ("user", "session", "namespace")
            if isinstance(value := request.fields.get(name), str)
        }
        claims = read_claims({}, named, request.fields, default_user=defaults.user)
    except BadIdentityError as error:
        raise ValueError(str(error)) from error
    if claims.user is None:
        raise ValueError('no user: name one in the line ("user") or with --user')
    messages = tuple(_without_times(message) for message in request.messages)
    past = replace(request, messages=messages, instructions=messages[: request.lead])
    if past.lead == len(messages):
        raise ValueError("nothing but instructions")
    began = _time(request.fields.get("created_at"))
    times = _times(request.messages[past.lead :], first=began or now)
    scope = Scope(tenant, claims.user, claims.namespace or defaults.namespace)
    dated = [at for at in times if at != now]  # without times of its own it is the same at each run
    name = claims.session or defaults.session_prefix + _content_digest(past, dated)
    return Past(SessionKey(scope, name), claims.session is not None, past, times)


def plan(past: Past, session: LoadedSession | None, tokens: Sequence[int]) -> list[NewTurn]:
    """What is to be written of a conversation, turn by turn; nothing when the session has all of it.

    Raises:
        ValueError: the session holds another conversation.
    """
    digests = [chat.digest(message) for message in past.said]
    stored = [entry.digest for entry in session.index] if session is not None else []
    common = min(len(stored), len(digests))
    if stored[:common] != digests[:common]:
        raise ValueError(f"the session {past.key.session} holds another conversation already")
    known, turns = len(stored), []
    for first, last in _turns(past.said):
        if last > known:
            turns.append(_new_turn(past, session, tokens, first=max(first, known), last=last))
            known = last
    return turns


def show_tally(console: Console, path: Path, tally: Tally) -> None:
    """Print what became of the file, bad lines first."""
    for line, reason in tally.bad:
        console.print(f"{path}, line {line}: {reason}", style="red", markup=False)
    skipped = f"; {len(tally.bad)} lines could not be used" if tally.bad else ""
    console.print(
        f"{tally.imported} conversations imported with {tally.turns} turns, {tally.known} were there already{skipped}."
    )


async def import_file(
    settings: Settings, path: Path, *, defaults: Defaults, credential: str | None, console: Console
) -> Tally:
    """Import a file, with a progress bar.

    Raises:
        SettingsError: it can't be told whose tenant it is.
        StoreError: the store can't be used; what was imported by then stays.
    """
    async with open_services(settings) as services:
        tenant = services.tenants.tenant_of(credential)
        if tenant is None:
            raise SettingsError(
                "Each credential is a tenant of its own here (tenancy = key). Say whose conversations these are: the "
                "key that their agent sends, with --api-key or in OPENAI_API_KEY."
            )
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress, path.open("rb") as lines:
            bar = progress.add_task("importing", total=os.fstat(lines.fileno()).st_size)
            tally = Tally()
            for number, line in enumerate(lines, start=1):
                if number % LOOK_EVERY == 1:
                    await _until_there_is_room(services, progress, bar)
                if line.strip():
                    await _import_line(services, line, number, tally, tenant=tenant, defaults=defaults)
                progress.update(bar, advance=len(line))
        return tally


async def _import_line(
    services: Services, line: bytes, number: int, tally: Tally, *, tenant: str, defaults: Defaults
) -> None:
    try:
        past = read_line(line, tenant=tenant, defaults=defaults, now=services.clock.now())
        turns = await _record(services, past)
    except ValueError as error:
        tally.bad.append((number, str(error)))
        return
    tally.turns += turns
    tally.imported += bool(turns)
    tally.known += not turns


async def _record(services: Services, past: Past) -> int:
    """Write what is new; how many turns that were."""
    sessions = services.sessions
    tokens = await counted(CHAT_COMPLETIONS, past.said)
    written = 0
    for _ in range(CONFLICT_ATTEMPTS):
        async with within(DEADLINE_S, "reading a session"):
            session = await sessions.load(past.key.scope, past.key.session, chains=(), want_index=True, tail=0)
        for turn in plan(past, session, tokens):
            async with within(DEADLINE_S, "recording a turn"):
                if not await sessions.record(turn):
                    break
            written += 1
        else:
            if written and past.request.instructions:
                await _keep_instructions(services, past)
            return written
    raise StoreError(f"The session {past.key.session} kept changing while it was imported. Import the file again.")


async def _until_there_is_room(services: Services, progress: Progress, bar: TaskID) -> None:
    """Wait while the store's memory is short: what is imported would be stored, but not learned from."""
    memory = services.store_memory
    await memory.look()
    while memory.pressure is Pressure.SHORT:
        progress.update(bar, description=f"waiting: the store's memory is {memory.share:.0%} full")
        await asyncio.sleep(PRESSURE_POLL_S)
        await memory.look()
    progress.update(bar, description="importing")


async def _keep_instructions(services: Services, past: Past) -> None:
    instructions = list(past.request.instructions)
    raw = json.dumps(instructions, ensure_ascii=False).encode("utf-8", "replace")
    async with within(DEADLINE_S, "storing instructions"):
        await services.sessions.keep_instructions(past.key, raw=raw, is_named=past.is_named)


def _turns(messages: Sequence[JsonObject]) -> Iterator[tuple[int, int]]:
    """Where each turn begins and ends: what the user said, up to the end of what it was answered."""
    begin = 0
    for at in range(1, len(messages)):
        if messages[at].get("role") == "user" and messages[at - 1].get("role") != "user":
            yield begin, at
            begin = at
    yield begin, len(messages)


def _new_turn(past: Past, session: LoadedSession | None, tokens: Sequence[int], *, first: int, last: int) -> NewTurn:
    turn_id = f"imp-{digest_of(past.key.session, str(first), *(_hex(message) for message in past.said[:last]))}"
    messages = [
        StoredMessage(message, _hex(message), count, at, turn_id)
        for message, count, at in zip(past.said[:last], tokens, past.times, strict=False)
    ]
    new, is_last = tuple(messages[first:]), last == len(past.said)
    turn = Turn(
        id=turn_id,
        scope=past.key.scope,
        session=past.key.session,
        at=new[-1].at,
        outcome=Outcome.COMPLETED,
        messages=new,
        context=tuple(messages[max(0, first - CONTEXT_MESSAGES) : first]),
        strategies=session.strategies if session is not None else (),
    )
    ends_answered = is_last and past.said[-1].get("role") == "assistant"
    return NewTurn(
        key=past.key,
        turn_id=turn_id,
        expected_length=first,
        keep=first,
        messages=new,
        flags=tuple(flags_of(CHAT_COMPLETIONS, each.message, is_partial=False) for each in new),
        facts=_facts(past, session, messages, first=first),
        pins={},
        queued=encode_turn(turn),
        chain=read_conversation(past.request).chain.hex() if ends_answered else "",
        is_named=past.is_named,
        rewrites=session.rewrites if session is not None else 0,
    )


def _facts(
    past: Past, session: LoadedSession | None, messages: Sequence[StoredMessage], *, first: int
) -> Mapping[str, str]:
    key = past.key
    before = sum(1 for _, last in _turns(past.said) if last <= first)
    facts = {
        "session": key.session,
        "thread": "",
        "user": key.scope.user or "",
        "namespace": key.scope.namespace or "",
        "updated_at": messages[-1].at.isoformat(),
        "tokens": str(sum(message.tokens for message in messages)),
        "turns": str(before + 1),
        "instructions": instructions_digest(past.request) or (session.instructions if session is not None else ""),
    }
    return facts if session is not None or first else {**facts, "created_at": messages[0].at.isoformat()}


def _content_digest(request: Request, times: Sequence[datetime]) -> str:
    """What names a conversation that has no name: all of it. Many begin alike, and some are said twice."""
    said = [_hex(message) for message in request.messages]
    return digest_of(*said, *(at.isoformat() for at in times))[:16]


def _hex(message: JsonObject) -> str:
    return chat.digest(message).hex()


def _without_times(message: JsonObject) -> JsonObject:
    return {name: value for name, value in message.items() if name not in TIMES}


def _times(messages: Sequence[JsonObject], *, first: datetime) -> tuple[datetime, ...]:
    """When each was said; without a time of its own, when the one before was."""
    times, at = [], first
    for message in messages:
        at = next((told for name in TIMES if (told := _time(message.get(name))) is not None), at)
        times.append(at)
    return tuple(times)


def _time(value: Any) -> datetime | None:
    """The point in time, in UTC; ValueError for what is none."""
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        at = datetime.fromisoformat(str(value))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{str(value)[:40]!r} is no time; use ISO 8601 or seconds since 1970") from error
