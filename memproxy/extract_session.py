"""The command `memproxy extract`: make memories of a whole stored session, now and by hand.

Useful after a model was configured, or another strategy, or where turns were dropped. It does what the workers do:
facts that are known already are recognised, and a second run over the same session asks and changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from memproxy.errors import ModelCallError, SettingsError
from memproxy.extraction.extract import Extractor
from memproxy.proxy.turns import CONTEXT_MESSAGES
from memproxy.records import Outcome, Scope, SessionKey, StoredMessage, Turn
from memproxy.services import Services, open_services
from memproxy.settings import Settings
from memproxy.storage.deadline import within
from memproxy.storage.queue import encode_turn
from memproxy.storage.schema import digest_of
from memproxy.storage.working import LoadedSession

DEADLINE_S = 30.0
"""For one step with the store."""

BATCH_BYTES = 60_000
"""Of the turns that a model reads at one go; as the workers have it."""


@dataclass(frozen=True, slots=True)
class Whose:
    """Which session is meant."""

    session: str
    user: str | None = None
    namespace: str | None = None


@dataclass(slots=True)
class Extracted:
    """What came of a session."""

    turns: int = 0
    said: int = 0
    """Memories of what was said, new ones."""
    learned: int = 0
    """Memories that the model made, new ones."""
    tokens: int = 0
    has_model: bool = True
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Turn and reason."""


async def extract_session(settings: Settings, whose: Whose, *, credential: str | None, console: Console) -> Extracted:
    """Make memories of a session, with a progress bar.

    Raises:
        SettingsError: there is no such session, or it can't be told whose tenant it is.
        StoreError: the store can't be used.
        BudgetSpentError: the model may not be asked any more today; what was learned by then stays.
    """
    async with open_services(settings) as services:
        tenant = services.tenants.tenant_of(credential)
        if tenant is None:
            raise SettingsError(
                "Each credential is a tenant of its own here (tenancy = key). Say whose session it is: the key that "
                "its agent sends, with --api-key or in OPENAI_API_KEY."
            )
        session = await _loaded(services, Scope(tenant, whose.user, whose.namespace), whose.session)
        async with within(DEADLINE_S, "reading the session's messages"):
            messages = await services.sessions.messages(session.key, 0, -1)
        turns = turns_of(session, messages)
        found = Extracted(len(turns), has_model=services.extractor.has_model)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("turns"))
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("extracting", total=len(turns))
            for batch in batches_of(turns, most=settings.extraction_batch_turns):
                await extract_batch(services.extractor, batch, found)
                progress.update(bar, advance=len(batch))
        found.tokens += await services.extractor.summarise(session.key)
        return found


async def extract_batch(extractor: Extractor, batch: Sequence[Turn], found: Extracted) -> None:
    """Index and learn a batch; where the model can't make anything of it as a whole, turn by turn."""
    found.said += await extractor.index(batch)
    if not await _learned(extractor, batch, found) and len(batch) > 1:
        for turn in batch:
            await _learned(extractor, [turn], found)


def turns_of(session: LoadedSession, messages: Sequence[StoredMessage]) -> list[Turn]:
    """The turns that a session is made of, with the ids that they were queued with.

    Left out are answers that broke off, and what its author says is learned already.
    """
    turns = []
    for first, last in _spans(messages):
        new = tuple(message for message in messages[first:last] if not message.partial and not message.learned)
        if new:
            turns.append(
                Turn(
                    id=new[0].turn or _made_up_id(session.key, first, new),
                    scope=session.key.scope,
                    session=session.key.session,
                    at=new[-1].at,
                    outcome=Outcome.COMPLETED,
                    messages=new,
                    context=tuple(messages[max(0, first - CONTEXT_MESSAGES) : first]),
                    strategies=session.strategies,
                    thread=session.key.thread,
                )
            )
    return turns


def batches_of(turns: Sequence[Turn], *, most: int) -> Iterator[list[Turn]]:
    """The turns as a model reads them: so many at a time, and not too much."""
    batch: list[Turn] = []
    size = 0
    for turn in turns:
        length = len(encode_turn(turn))
        if batch and (len(batch) >= most or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(turn)
        size += length
    if batch:
        yield batch


def show_extracted(console: Console, found: Extracted) -> None:
    """Print what came of it."""
    for turn, reason in found.failed:
        console.print(f"turn {turn}: {reason}", style="red", markup=False)
    console.print(
        f"{found.turns} turns: {found.said} new memories of what was said, {found.learned} made by the model."
    )
    if found.has_model:
        console.print(f"The model took {found.tokens} tokens.")
    else:
        console.print("No model was asked: set extraction_model, and a key or an endpoint for it.")


async def _loaded(services: Services, scope: Scope, name: str) -> LoadedSession:
    async with within(DEADLINE_S, "reading the session"):
        session = await services.sessions.load(scope, name, chains=(), want_index=False, tail=0)
    if session is None:
        whose = f"of user {scope.user}" if scope.user else "without a user (name one with --user)"
        raise SettingsError(f"There is no session {name} {whose}, namespace {scope.namespace or 'none'}.")
    return session


async def _learned(extractor: Extractor, batch: Sequence[Turn], found: Extracted) -> bool:
    """Have the model read a batch; False, and a single turn noted as failed, when nothing comes of it."""
    try:
        learned = await extractor.learn(batch)
    except ModelCallError as error:
        if len(batch) == 1:
            found.failed.append((batch[0].id, str(error)))
        return False
    found.learned += learned.new
    found.tokens += learned.tokens
    return True


def _made_up_id(session: SessionKey, first: int, messages: Sequence[StoredMessage]) -> str:
    """The same for the same messages at the same place."""
    return f"ext-{digest_of(session.session, session.thread, str(first), *(message.digest for message in messages))}"


def _spans(messages: Sequence[StoredMessage]) -> Iterator[tuple[int, int]]:
    """Where each turn's messages begin and end; those that no turn brought go by who speaks."""
    begin = 0
    for at in range(1, len(messages)):
        before, here = messages[at - 1], messages[at]
        answered = here.message.get("role") == "user" and before.message.get("role") != "user"
        if here.turn != before.turn or (not here.turn and answered):
            yield begin, at
            begin = at
    if messages:
        yield begin, len(messages)
