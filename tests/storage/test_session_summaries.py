"""The rolling summary of a session: read with what it needs, replaced only where nothing changed."""

from dataclasses import replace

from redis.asyncio import Redis

from memproxy.storage import schema
from memproxy.storage.session_summaries import SessionSummaries, SummaryState
from tests.fakes.talks import OTHERS, TALK, facts_of, set_facts, talk, write


async def state_of(redis: Redis) -> SummaryState:
    state = await SessionSummaries(redis).read(TALK)
    assert state is not None
    return state


async def test_a_session_is_read_as_far_as_its_summary_needs_it(redis: Redis) -> None:
    """Positions, sizes and what code wants, in one round trip."""
    await write(redis, talk(4), facts={"cut": "2", "wants_summary": "100", "summary": "Été.", "summarised": "1"})
    state = await state_of(redis)
    assert (state.summary, state.summarised, state.cut, state.wanted_within, state.not_before) == ("Été.", 1, 2, 100, 0)
    assert [entry.tokens for entry in state.index] == [10] * 4
    assert await SessionSummaries(redis).read(OTHERS) is None


async def test_what_the_log_no_longer_has_counts_as_nothing(redis: Redis) -> None:
    """A position beyond the end would read messages that are not there."""
    await write(redis, talk(2), facts={"cut": "9", "summarised": "9"})
    state = await state_of(redis)
    assert (state.cut, state.summarised) == (2, 2)


async def test_a_summary_is_replaced_where_nothing_changed(redis: Redis) -> None:
    """Position and text go together."""
    await write(redis, talk(4))
    store = SessionSummaries(redis)
    assert await store.replace(TALK, await state_of(redis), summary="So far.", summarised=2)
    state = await state_of(redis)
    assert (state.summary, state.summarised) == ("So far.", 2)
    await write(redis, talk(2, first=4), expected=4)
    assert await store.replace(TALK, state, summary="Further.", summarised=4)


async def test_who_comes_too_late_changes_nothing(redis: Redis) -> None:
    """Two workers, a rewritten log, a session that is gone or shorter: the newer state wins."""
    await write(redis, talk(4))
    store = SessionSummaries(redis)
    state = await state_of(redis)
    assert await store.replace(TALK, state, summary="First.", summarised=2)
    assert not await store.replace(TALK, state, summary="Second.", summarised=2)
    state = await state_of(redis)
    assert not await store.replace(TALK, state, summary="Beyond.", summarised=5)
    await set_facts(redis, {"rewrites": "1"})
    assert not await store.replace(TALK, state, summary="Old log.", summarised=3)
    assert (await facts_of(redis))["summary"] == "First."
    await redis.delete(schema.session_key("s", TALK))
    assert not await store.replace(TALK, replace(state, summarised=0), summary="Ghost.", summarised=0)
    assert await redis.exists(schema.session_key("s", TALK)) == 0


async def test_a_try_can_be_put_off(redis: Redis) -> None:
    """A model that had nothing to say is not asked again at once."""
    await write(redis, talk(4))
    store = SessionSummaries(redis)
    assert await store.put_off(TALK, await state_of(redis), until=12)
    state = await state_of(redis)
    assert (state.not_before, state.summary, state.summarised) == (12, "", 0)
    assert await store.replace(TALK, state, summary="So far.", summarised=1)
    assert (await state_of(redis)).not_before == 0
