"""Filters in both vocabularies, as rules."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from agent_memory_client import filters as client_filters
from pydantic import ValidationError

from memproxy.memory_api.filters import Filters
from memproxy.storage.memory_filter import Rule, TagField, TagRule, TagTest, TimeField, TimeRule

ANY, ALL, NONE, STARTSWITH = TagTest.ANY, TagTest.ALL, TagTest.NONE, TagTest.STARTSWITH
NEW_YEAR, MAY = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC)


def rules(**given: Any) -> list[Rule]:
    """What comes out of this body."""
    return list(Filters.model_validate_json(json.dumps(given)).rules())


@pytest.mark.parametrize(
    ("given", "test", "values"),
    [
        ({"eq": "a"}, ANY, ("a",)),
        ({"any": ["a", "b"]}, ANY, ("a", "b")),
        ({"in_": ["a", "b"]}, ANY, ("a", "b")),
        ({"in": ["a", "b"]}, ANY, ("a", "b")),
        ({"all": ["a", "b"]}, ALL, ("a", "b")),
        ({"ne": "a"}, NONE, ("a",)),
        ({"not_eq": "a"}, NONE, ("a",)),
        ({"none": ["a", "b"]}, NONE, ("a", "b")),
        ({"not_in": ["a", "b"]}, NONE, ("a", "b")),
        ({"startswith": "a "}, STARTSWITH, ("a ",)),
    ],
)
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("session_id", TagField.SESSION),
        ("namespace", TagField.NAMESPACE),
        ("user_id", TagField.USER),
        ("topics", TagField.TOPICS),
        ("entities", TagField.ENTITIES),
        ("extraction_strategy", TagField.STRATEGY),
    ],
)
def test_both_vocabularies_are_understood(
    name: str, field: TagField, given: dict[str, Any], test: TagTest, values: tuple[str, ...]
) -> None:
    """The server's documentation and the client's models name the same things differently."""
    assert rules(**{name: given}) == [TagRule(field, test, values)]


def test_several_operators_all_hold() -> None:
    """Whoever says `any` and `none` means both."""
    assert rules(topics={"any": ["a"], "none": ["b"], "all": ["c", "d"]}, user_id={"eq": "u", "in_": ["u", "v"]}) == [
        TagRule(TagField.USER, ANY, ("u",)),
        TagRule(TagField.USER, ANY, ("u", "v")),
        TagRule(TagField.TOPICS, ANY, ("a",)),
        TagRule(TagField.TOPICS, ALL, ("c", "d")),
        TagRule(TagField.TOPICS, NONE, ("b",)),
    ]


@pytest.mark.parametrize("given", [None, {}, {"eq": None}, {"none": []}, {"not_in": []}, {"any": None, "all": None}])
def test_an_empty_filter_restricts_nothing(given: object) -> None:
    """The client sends `{}` for a filter of which nothing was set."""
    assert rules(user_id=given, topics=given) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gte": "2024-01-01", "lte": "2024-05-01"}, [(NEW_YEAR, MAY, True, True, False)]),
        ({"gt": "2024-01-01", "lt": "2024-05-01"}, [(NEW_YEAR, MAY, False, False, False)]),
        ({"gte": "2024-01-01"}, [(NEW_YEAR, None, True, True, False)]),
        ({"lt": "2024-05-01"}, [(None, MAY, False, False, False)]),
        ({"eq": "2024-01-01"}, [(NEW_YEAR, NEW_YEAR, True, True, False)]),
        ({"ne": "2024-01-01"}, [(NEW_YEAR, NEW_YEAR, True, True, True)]),
        ({"between": ["2024-01-01", "2024-05-01"]}, [(NEW_YEAR, MAY, True, True, False)]),
        ({"between": ["2024-01-01", "2024-05-01"], "inclusive": "left"}, [(NEW_YEAR, MAY, True, False, False)]),
        ({"between": ["2024-01-01", "2024-05-01"], "inclusive": "right"}, [(NEW_YEAR, MAY, False, True, False)]),
        ({"between": ["2024-01-01", "2024-05-01"], "inclusive": "neither"}, [(NEW_YEAR, MAY, False, False, False)]),
        (
            {"gt": "2024-01-01", "lte": "2024-05-01"},
            [(NEW_YEAR, None, False, False, False), (None, MAY, True, True, False)],
        ),
    ],
)
def test_spans_of_time_keep_both_ends(given: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    """A span with one end lost finds what lies outside of it."""
    for name in ("created_at", "last_accessed", "event_date", "updated_at"):
        assert rules(**{name: given}) == [TimeRule(TimeField(name), *one) for one in expected]


@pytest.mark.parametrize(
    ("given", "loc"),
    [
        ({"namespace": {"eqq": "a"}}, ("namespace", "eqq")),
        ({"created_at": {"since": "2024-01-01"}}, ("created_at", "since")),
        ({"memory_type": {"startswith": "sem"}}, ("memory_type", "startswith")),
        ({"memory_type": {"eq": "semantics"}}, ("memory_type", "eq")),
        ({"user_id": {"any": []}}, ("user_id", "any")),
        ({"user_id": {"in_": []}}, ("user_id", "in_")),
        ({"user_id": {"eq": ""}}, ("user_id", "eq")),
        ({"user_id": "alice"}, ("user_id",)),
        ({"user_id": {"any": [None]}}, ("user_id", "any", 0)),
        ({"created_at": {"between": ["2024-01-01"]}}, ("created_at", "between")),
        ({"created_at": {"inclusive": "some"}}, ("created_at", "inclusive")),
        ({"namespace": {"field": "user_id", "eq": "bob"}}, ("namespace",)),
        ({"topics": {"any": ["x"] * 1001}}, ("topics", "any")),
    ],
)
def test_what_can_be_no_filter_is_refused_by_name(given: dict[str, Any], loc: tuple[str | int, ...]) -> None:
    """A restriction that is dropped in silence shows what was not asked for."""
    with pytest.raises(ValidationError) as caught:
        rules(**given)
    assert caught.value.errors()[0]["loc"] == loc


@pytest.mark.parametrize("key", ["filters", "filter", "where", "userId", "user", "namespaces", "memory_types", "topic"])
def test_keys_that_are_meant_as_filters_are_refused(key: str) -> None:
    """`long_term_search={"filters": ...}` searched everybody's memories in the reference."""
    with pytest.raises(ValidationError, match=key):
        rules(**{key: {"eq": "alice"}})


def test_other_keys_are_passed_over() -> None:
    """Later clients may send more than is known here."""
    assert rules(something_new=1, text="x") == []


def test_the_references_name_of_the_field_may_stand_there() -> None:
    """Its own models write it out."""
    assert rules(namespace={"field": "namespace", "eq": "a"}) == [TagRule(TagField.NAMESPACE, ANY, ("a",))]


CLIENT_FILTERS = [
    ("session_id", client_filters.SessionId, {"eq": "a", "in_": ["a"], "not_eq": "b", "not_in": ["c"]}),
    ("namespace", client_filters.Namespace, {"eq": "a", "in_": ["a"], "not_eq": "b", "not_in": ["c"]}),
    ("user_id", client_filters.UserId, {"eq": "a", "in_": ["a"], "not_eq": "b", "not_in": ["c"]}),
    (
        "memory_type",
        client_filters.MemoryType,
        {"eq": "semantic", "in_": ["message"], "not_eq": "episodic", "not_in": ["message"]},
    ),
    ("topics", client_filters.Topics, {"any": ["a"], "all": ["b"], "none": ["c"]}),
    ("entities", client_filters.Entities, {"any": ["a"], "all": ["b"], "none": ["c"]}),
    ("created_at", client_filters.CreatedAt, {"gte": NEW_YEAR, "lte": MAY, "eq": MAY}),
    ("last_accessed", client_filters.LastAccessed, {"gte": NEW_YEAR, "lte": MAY, "eq": MAY}),
    ("event_date", client_filters.EventDate, {"gte": NEW_YEAR, "lte": MAY, "eq": MAY}),
]


@pytest.mark.parametrize(("name", "model", "values"), CLIENT_FILTERS, ids=[each[0] for each in CLIENT_FILTERS])
def test_whatever_the_clients_models_can_say_is_understood(name: str, model: Any, values: dict[str, Any]) -> None:
    """An attribute of the client's that is not known here would be refused, and the client's user stuck."""
    assert values.keys() == model.model_fields.keys()
    for key, value in values.items():
        sent = model(**{key: value}).model_dump(exclude_none=True, mode="json")
        assert len(rules(**{name: sent})) == 1, key
    assert rules(**{name: model().model_dump(exclude_none=True)}) == []
