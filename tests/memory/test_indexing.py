"""What is kept beside a record, so that it can be found."""

from datetime import UTC, datetime

import numpy as np
import pytest

from memproxy.embedding import LocalEmbedder
from memproxy.memory.indexing import DOCUMENT_TERMS, Indexer
from memproxy.records import MemoryRecord, MemoryType, Scope


@pytest.fixture(scope="module")
def indexer() -> Indexer:
    return Indexer(LocalEmbedder())


def record(text: str, context: str = "") -> MemoryRecord:
    return MemoryRecord("m", Scope("t", "u"), text, MemoryType.MESSAGE, datetime.now(UTC), context=context)


async def test_terms_and_vectors_come_in_the_order_of_the_records(indexer: Indexer) -> None:
    """Each record gets its own."""
    known = np.ones(256, np.float32)
    records = [record("green teas", "the kettle"), record("horses"), record("laptop")]
    tea, horse, laptop = await indexer.indexed(records, vectors=[None, known, None])
    assert (tea.text_terms, tea.context_terms) == (["green", "tea"], ["kettl"])
    assert horse.vector is known
    for one in (tea, laptop):
        (alone,) = await indexer.indexed([one.record])
        assert np.array_equal(one.vector, alone.vector)
    assert await indexer.indexed([]) == []


async def test_of_a_long_text_the_beginning_is_indexed_and_of_its_context_the_end(indexer: Indexer) -> None:
    """The context's end stands next to the text."""
    many = " ".join(f"w{number}" for number in range(2_000))
    (long,) = await indexer.indexed([record(many, many)])
    assert (len(long.text_terms), long.text_terms[0]) == (DOCUMENT_TERMS, "w0")
    assert (len(long.context_terms), long.context_terms[-1]) == (DOCUMENT_TERMS, "w1999")
