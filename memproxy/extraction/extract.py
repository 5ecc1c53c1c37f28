"""Turns to stored memories: what was said, as it was said, and what a model makes of it.

Both kinds are kept, because together they recall most: words as they fell hold what no model thought worth noting,
extracted facts hold what is only understood from several messages. The first kind needs no model and is a stage of its
own, so that nothing is lost while a model is away.

Everything here may happen twice: the ids of memories are digests of what they say, so a second time changes nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from memproxy.extraction.spoken import Utterance, day, is_trivial, pieces, utterances
from memproxy.extraction.strategies import STRATEGIES, Strategy
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Turn
from memproxy.storage.schema import digest_of


class Remembers(Protocol):
    """Long-term memory, as far as extraction needs it."""

    async def remember(self, records: Sequence[MemoryRecord]) -> int:
        """Store the records; how many were new."""


class Asks(Protocol):
    """A model that answers in JSON."""

    async def ask(self, *, system: str, user: str, schema_name: str, schema: JsonObject) -> Any:
        """The parsed answer; raises ModelCallError."""


class Extractor:
    """Makes memories of turns. Without a model it still indexes what was said.

    A turn without a user stores nothing: there is nobody whose memory it would be.
    """

    def __init__(
        self, memory: Remembers, *, model: Asks | None = None, strategy: Strategy = STRATEGIES["discrete"]
    ) -> None:
        self._memory = memory
        self._model = model
        self._strategy = strategy
        self._instructions = strategy.instructions()

    @property
    def has_model(self) -> bool:
        """Whether `learn` can do anything."""
        return self._model is not None

    async def index(self, turn: Turn) -> int:
        """Store what user and assistant said; how many memories were new. Raises StoreError."""
        records = message_memories(turn)
        return await self._memory.remember(records) if records else 0

    async def learn(self, turn: Turn) -> int:
        """Store what the model finds worth keeping; how many memories were new. Raises ModelCallError and StoreError.

        Cost: a model call for each part of the turn, nearly always one. What an earlier part gave is stored before the
        next is asked for.
        """
        if self._model is None or turn.scope.user is None:
            return 0
        new = 0
        for prompt in self._strategy.prompts(turn):
            answer = await self._model.ask(
                system=self._instructions,
                user=prompt,
                schema_name=f"{self._strategy.name}_memories",
                schema=self._strategy.schema(),
            )
            if records := self._strategy.read(answer, turn):
                new += await self._memory.remember(records)
        return new


def message_memories(turn: Turn) -> list[MemoryRecord]:
    """What was said in the turn as MESSAGE memories, each with the two pieces that were said before it as context.

    The id is a digest of session, speaker and words: the same words again in a session are the same memory.
    """
    if turn.scope.user is None:
        return []
    before = [piece for said in utterances(turn.context) for piece in pieces(said.words)]
    records: dict[str, MemoryRecord] = {}
    for said in utterances(turn.messages):
        for piece in pieces(said.words):
            if not is_trivial(piece):
                record = _message_memory(piece, said, turn=turn, before=before[-2:])
                records.setdefault(record.id, record)
            before.append(piece)
    return list(records.values())


def _message_memory(piece: str, said: Utterance, *, turn: Turn, before: Sequence[str]) -> MemoryRecord:
    return MemoryRecord(
        id=digest_of("message", turn.session, said.role, said.speaker, piece),
        scope=turn.scope,
        text=f"{said.speaker} ({day(said.at)}): {piece}",
        type=MemoryType.MESSAGE,
        created_at=said.at,
        session=turn.session,
        speaker=said.speaker,
        context="\n".join(before),
        turns=(turn.id,),
    )
