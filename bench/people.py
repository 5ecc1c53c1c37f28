"""Users with something to remember: statements about them, and what they ask. The same seed gives the same words.

Statements and questions share words, as they do in life, so that a search has something to find and to put before the
message.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from memproxy.identity import SINGLE_TENANT
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.memory_documents import IndexedMemory

_RELATIONS = (
    "sister", "brother", "mother", "father", "daughter", "son", "aunt", "uncle", "cousin", "neighbour",
    "colleague", "manager", "landlord", "dentist", "doctor", "teacher", "coach", "lawyer", "accountant", "friend",
)  # fmt: skip
_NAMES = (
    "Anna", "Boris", "Carla", "David", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Kira", "Luis",
    "Mona", "Nils", "Olga", "Pedro", "Qadira", "Rosa", "Sven", "Tara", "Ugo", "Vera", "Wim", "Xenia", "Yusuf", "Zoe",
)  # fmt: skip
_CITIES = (
    "Lisbon", "Oslo", "Vienna", "Turin", "Ghent", "Porto", "Malmo", "Krakow", "Bergen", "Dublin", "Basel", "Tartu",
    "Split", "Athens", "Riga", "Bilbao", "Nantes", "Leeds", "Izmir", "Osaka", "Quito", "Perth", "Hanoi", "Accra",
)  # fmt: skip
_THINGS = (
    "laptop", "bicycle", "camera", "violin", "piano", "car", "garden", "kitchen", "telescope", "tent", "printer",
    "guitar", "boat", "drone", "microscope", "oven", "router", "skateboard", "jacket", "bookshelf", "watch", "sofa",
)  # fmt: skip
_STATEMENTS = (
    "The user's {relation} {name} lives in {city} and owns a {thing}.",
    "The user's {relation} {name} is allergic to peanuts and prefers trains to planes when travelling to {city}.",
    "The user bought a {thing} in {city} together with {name}, on order {order}.",
    "The user wants the {thing} repaired before {name} visits from {city}.",
    "{name} from {city} recommended a {thing} to the user, who found it too expensive.",
)
_QUESTIONS = (
    """Do you remember where my {relation} {name} lives now? I would like to plan a visit and bring the {thing} along.
My reference is {order}; what should I book first for {city}?""",
    """The {thing} that I bought in {city} makes a strange noise since yesterday. Who recommended it to me, was it
{name}? Please draft a short complaint for order {order} that I can send today.""",
    """I need a present for my {relation} {name}, who moved to {city} last year. Would a {thing} be a good idea, or does
that clash with what you know? The voucher is {order}.""",
)

INSTRUCTIONS = (
    "You are the assistant of a travel and household service. Answer in the language of the user, briefly and"
    " concretely; name prices and dates where you know them. Ask back when an order number, a name or a place is"
    " missing. Never promise a refund, and never share details of other customers. If a tool reports an error, say so"
    " and propose what to do next."
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Says sentences without end; no two contain the same order number."""

    chance: random.Random
    prefix: str

    def question(self, number: int) -> str:
        """About 200 characters that were never said before."""
        return self._filled(self.chance.choice(_QUESTIONS), number)

    def statement(self, number: int) -> str:
        """About 80 characters about the user."""
        return self._filled(self.chance.choice(_STATEMENTS), number)

    def _filled(self, template: str, number: int) -> str:
        pick = self.chance.choice
        words = {"relation": pick(_RELATIONS), "name": pick(_NAMES), "city": pick(_CITIES), "thing": pick(_THINGS)}
        return template.format(order=f"{self.prefix}-{number}", **words)


def scope_of_user(user: str) -> Scope:
    """Where memproxy keeps what it knows about this user when it listens on loopback."""
    return Scope(tenant=SINGLE_TENANT, user=user)


def memories_of(user: str, count: int) -> Iterator[MemoryRecord]:
    """What is known about a user before the bench begins."""
    speaker = Speaker(random.Random(user), "BK")
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(count):
        yield MemoryRecord(
            id=f"{user}-{number}",
            scope=scope_of_user(user),
            text=speaker.statement(number),
            type=MemoryType.SEMANTIC,
            created_at=began + timedelta(minutes=number),
            session=f"before-{number // 10}",
        )


def handed_out(known: Sequence[IndexedMemory], user: str, count: int) -> Iterator[IndexedMemory]:
    """A user's share of what is known already, vectors and all: another share for each, cheap to make.

    Nobody sees that others were told the same, and a search has as much to do. `count` at most as many as there are.
    """
    scope, start = scope_of_user(user), zlib.crc32(user.encode()) % len(known)
    for number in range(count):
        given = known[(start + number) % len(known)]
        record = replace(given.record, id=f"{user}-{number}", scope=scope)
        yield IndexedMemory(record, given.text_terms, given.context_terms, given.vector)
