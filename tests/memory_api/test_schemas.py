"""What clients send, with its defaults and bounds."""

import json
from typing import Any

import pytest
from agent_memory_client.models import ClientMemoryRecord, ForgetPolicy
from pydantic import ValidationError

from memproxy.memory_api.schemas import CreateRequest, EditRequest, ForgetRequest, MemoryInput, SearchRequest
from memproxy.records import MemoryType


def read(model: Any, **given: Any) -> Any:
    """The body as the model reads it."""
    return model.model_validate_json(json.dumps(given))


def test_a_record_of_the_clients_is_taken_as_it_is() -> None:
    """It comes with all its fields set, also those that only the server can know."""
    sent = ClientMemoryRecord(text="Alice likes tea").model_dump(exclude_none=True, mode="json")
    memory = read(CreateRequest, memories=[sent]).memories[0]
    assert (memory.id, memory.text) == (sent["id"], "Alice likes tea")
    assert memory.memory_type is MemoryType.MESSAGE  # the client says so explicitly


def test_the_servers_defaults_hold_for_what_is_not_said() -> None:
    """A fact that somebody creates by hand is a semantic one."""
    request = read(CreateRequest, memories=[{"id": "1", "text": "x"}])
    assert request.deduplicate is True
    assert request.memories[0].memory_type is MemoryType.SEMANTIC


@pytest.mark.parametrize(
    "memory",
    [
        {"text": "x"},
        {"id": "1"},
        {"id": "", "text": "x"},
        {"id": "1", "text": ""},
        {"id": "1", "text": " "},
        {"id": "1", "text": "x", "memory_type": "fact"},
        {"id": "1", "text": "x", "user_id": ""},
        {"id": "1", "text": "x", "topics": "tea"},
        {"id": "1", "text": "x", "topics": ["x"] * 201},
        {"id": "1", "text": "x", "discrete_memory_extracted": "maybe"},
        {"id": "1", "text": "x", "metadata": {"n": 2**70}},
        {"id": "1", "text": "x" * 100_001},
        {"id": "x" * 513, "text": "x"},
    ],
)
def test_what_can_be_no_memory_is_refused(memory: dict[str, Any]) -> None:
    """Better now, by name, than later, when nobody knows where it came from."""
    with pytest.raises(ValidationError):
        read(CreateRequest, memories=[memory])


def test_a_search_without_a_mode_leaves_the_ranking_to_the_engine() -> None:
    """Its own ranking finds more than any of the reference's modes."""
    request = read(SearchRequest, text="x")
    assert request.search_mode is None
    assert (request.limit, request.offset, request.hybrid_alpha) == (10, 0, 0.7)


@pytest.mark.parametrize(
    "given",
    [
        {"limit": 0}, {"limit": 101}, {"limit": 10**30}, {"offset": -1}, {"offset": 10**30}, {"hybrid_alpha": 1.1},
        {"search_mode": "magic"}, {"recency_half_life_created_days": 0}, {"recency_semantic_weight": -1},
        {"text": "x" * 100_001}, {"text": 5}, {"distance_threshold": "near"},
    ],
)  # fmt: skip
def test_a_search_has_bounds(given: dict[str, Any]) -> None:
    """No single request may ask for all there is."""
    with pytest.raises(ValidationError):
        read(SearchRequest, **given)


def test_a_policy_of_the_clients_is_taken() -> None:
    """All it can say."""
    sent = ForgetPolicy(max_age_days=1, max_inactive_days=2, budget=3, memory_type_allowlist=["semantic"])
    policy = read(ForgetRequest, policy=sent.model_dump(exclude_none=True)).policy
    assert (policy.max_age_days, policy.max_inactive_days, policy.budget) == (1, 2, 3)
    assert policy.hard_age_multiplier == 12


@pytest.mark.parametrize(
    "policy",
    [
        {"max_age": 1},
        {"memory_types": ["semantic"]},
        {"memory_type_allowlist": ["x"]},
        {"budget": -1},
        {"max_age_days": -1},
    ],
)
def test_a_policy_with_a_mistake_forgets_nothing(policy: dict[str, Any]) -> None:
    """A limit that is passed over would let go of too much, for good."""
    with pytest.raises(ValidationError):
        read(ForgetRequest, policy=policy)


def test_an_edit_says_only_what_changes() -> None:
    """Null changes nothing, an empty list clears."""
    assert read(EditRequest, text=None, topics=[], unknown=1).model_dump(exclude_none=True) == {"topics": []}


def test_what_the_server_decides_is_passed_over() -> None:
    """Nobody makes a memory look as if it had been read a thousand times."""
    assert not {"memory_hash", "persisted_at", "access_count", "last_accessed"} & MemoryInput.model_fields.keys()
