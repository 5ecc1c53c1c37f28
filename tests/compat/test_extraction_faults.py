"""Learning under faults, with real processes: a small run of `python -m bench extraction-faults`."""

import pytest

from bench.dialogue_turns import DIALOGUES, read_turns
from bench.extraction_faults import Trouble, run
from bench.faulty_model import REFUSED
from tests.fakes.shared_data import dialogues

TROUBLE = Trouble(kills=5, kill_every_s=(1.0, 3.0), restarts=2, restart_every_s=(3.0, 7.0))


@pytest.mark.timeout(400)
async def test_every_observation_is_stored_once_whatever_is_killed() -> None:
    """Workers and store are killed and the model fails in every way; nothing is lost, nothing doubled, nobody else's
    records are touched, and what was given up has a reason and can be tried again."""
    dialogues()
    turns = read_turns(DIALOGUES, count=100)
    result = await run(turns, seed=3, trouble=TROUBLE, measures_latency=False)
    assert (result.missing, result.doubled) == ([], [])
    assert result.stored == result.observations > 20
    assert (result.strangers_touched, result.scopes, result.left) == (0, 0, 0)
    assert 0 < sum(result.dead.values()) <= REFUSED
    assert all("400" in reason for reason in result.dead), "what is given up has a reason"
    assert (result.worker_kills, result.store_restarts) == (TROUBLE.kills, TROUBLE.restarts)
    assert result.holds
