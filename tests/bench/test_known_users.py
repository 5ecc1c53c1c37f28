"""The store that memproxy is measured on holds what it should, and is the same before each measurement."""

from redis.asyncio import Redis

from bench.known_users import KnownUsers
from bench.people import handed_out, memories_of, scope_of_user
from memproxy.embedding import LocalEmbedder
from memproxy.memory.indexing import Indexer
from memproxy.memory.long_term import LongTermMemory
from memproxy.storage.long_term import LongTermStore


async def _memory(redis: Redis) -> LongTermMemory:
    embedder = LocalEmbedder()
    return LongTermMemory(LongTermStore(redis, model=embedder.name, dims=embedder.dims), embedder)


async def test_the_store_is_as_full_as_it_was_asked_to_be(redis: Redis) -> None:
    """What a search costs depends on how much a user has, and on how much there is in all."""
    written: list[int] = []
    known = KnownUsers(redis, learns=False)
    await known.load({20: ["ann", "bob"], 150: ["eve"]}, in_all=400, progress=written.append)
    memory = await _memory(redis)
    for user, count in (("ann", 20), ("bob", 20), ("eve", 150), ("quiet-0", 100), ("quiet-2", 10)):
        assert (await memory.newest(scope_of_user(user), limit=1))[0] == count, user
    assert len([key async for key in redis.scan_iter("mp:m:*")]) == 400
    assert sum(written) == 400


async def test_what_is_handed_out_is_found_by_its_words_and_by_its_meaning(redis: Redis) -> None:
    """Vectors and terms made once for all must fit the text that each user gets."""
    await KnownUsers(redis, learns=False).load({20: ["ann"]})
    memory = await _memory(redis)
    _, (told, *_) = await memory.newest(scope_of_user("ann"), limit=20)
    found = await memory.search(scope_of_user("ann"), told.text, limit=3, relevant_only=False)
    assert found[0].record.text == told.text


async def test_users_are_told_different_things() -> None:
    """The same words for everybody would be found in caches that hold them once."""
    known = await Indexer(LocalEmbedder()).indexed(list(memories_of("everybody", 50)))
    ann, bob = (list(handed_out(known, user, 10)) for user in ("ann", "bob"))
    assert {each.record.text for each in ann} != {each.record.text for each in bob}
    assert {each.record.id for each in ann}.isdisjoint(each.record.id for each in bob)
    assert len({each.record.text for each in ann}) == 10


async def test_what_a_measurement_leaves_behind_is_taken_away(redis: Redis) -> None:
    """Without that, each round would search more than the one before."""
    known = KnownUsers(redis, learns=False)
    await known.load({20: ["ann"]})
    before = {key async for key in redis.scan_iter()}
    memory = await _memory(redis)
    await memory.remember(list(memories_of("ann-later", 5)))
    await known.restore()
    assert {key async for key in redis.scan_iter()} == before
