"""The index's names and queries."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.records import MemoryType, Scope
from memproxy.storage import memory_index
from memproxy.storage.memory_filter import (
    Filter,
    TagField,
    TimeField,
    TimeRule,
    any_of,
    created_between,
    none_of,
    of_scope,
    starts_with,
    types,
)
from memproxy.storage.memory_index import Made

ALICE = Scope("t", "alice")
T = memory_index.tenant_tag("t")


def test_models_have_indexes_and_fields_of_their_own() -> None:
    """Vectors of different models can't be compared, even if they are equally long."""
    models = [Made("a", 256), Made("a", 512), Made("b", 256), Made("org/b", 256), Made("org-b", 256)]
    for names in ("index_name", "vector_field", "mark", "vector_mark"):
        assert len({getattr(made, names) for made in models}) == len(models)


def test_an_index_name_is_plain() -> None:
    """Operators type it into redis-cli."""
    name = Made("org/some model:é", 256).index_name
    assert name.startswith("memproxy-memories-3-org-some-model---256-")
    assert name.isascii()


def test_the_schema_is_what_the_queries_rely_on() -> None:
    """Server-side stemming loses recall, a stop list crashes the engine, a blank would be cut off a tag."""
    schema = memory_index.index_schema(Made("m", 4)).to_dict()
    assert schema["index"]["prefix"] == "mp:m:"
    assert schema["index"]["stopwords"] == []
    fields = {field["name"]: field for field in schema["fields"]}
    tags = {name for name, field in fields.items() if field["type"] == "tag"}
    assert tags == {*TagField, "tenant", "scope", "pinned", "superseded", "made"}
    assert all(fields[name]["attrs"]["case_sensitive"] for name in tags)
    assert {name for name, field in fields.items() if field["type"] == "numeric"} == set(TimeField)
    assert [(fields[name]["attrs"]["no_stem"], fields[name]["attrs"]["weight"]) for name in ("text", "ctx")] == [
        (True, 3),
        (True, 1),
    ]


def test_text_query_selects_by_the_union_and_scores_by_optional_terms() -> None:
    """Any other form scores wrongly."""
    command = memory_index.text_search("i", "@user:{u|u}=>{$weight: 0}", ["a", "b"], limit=5)
    assert command[2] == "@user:{u|u}=>{$weight: 0} (a|b)=>{$weight: 0} ~a ~b"
    assert command[3:] == ["VERBATIM", "SCORER", "BM25STD", "WITHSCORES", "NOCONTENT", "LIMIT", 0, 5, "DIALECT", 2]


def test_the_proxy_asks_for_one_tag() -> None:
    """Each further tag costs as much again in a large store."""
    selected = memory_index.selection("t", Filter(of_scope(ALICE)))
    assert re.fullmatch(r"@scope:\{([0-9a-f]{32})\|\1\}=>\{\$weight: 0\}", selected)
    assert selected != memory_index.selection("t", Filter(of_scope(Scope("t", "alice", ""))))
    with_past = memory_index.selection("t", Filter(of_scope(ALICE), superseded=True))
    assert "@user:" in with_past
    assert "@namespace:" in with_past


WORDS = st.sampled_from(["alice|bob", "s} | *", "@user:{*}", "=>[KNN 1 @v $v]", '"', "\\", " ", "-", "*", "$v"])


@given(
    values=st.lists(WORDS | st.text(), min_size=1, max_size=3),
    fields=st.lists(st.sampled_from(TagField), min_size=1, max_size=3),
)
def test_nothing_that_was_sent_stands_in_a_query(values: Sequence[str], fields: Sequence[TagField]) -> None:
    """Whatever it is, it can't mean anything to the parser, and it can't lead to another tenant."""
    rules = [
        rule
        for field in fields
        for rule in (any_of(field, values), none_of(field, values), starts_with(field, values[0][:100]))
    ]
    selected = memory_index.selection("t", Filter((*rules, *of_scope(Scope("t", values[0], values[-1])))))
    tags = re.findall(r"\{([^{}$]*)\}", selected)
    kinds = "|".join([*MemoryType, memory_index.UNKNOWN])
    own = rf"{memory_index.tenant_tag('t')}[0-9a-fg]*(?:_|\*)?"
    for tag in (tag for group in tags for tag in group.split("|")):
        assert re.fullmatch(rf"{own}|{kinds}|[0-9a-f]{{32}}|1", tag)
    rest = re.sub(r"\{[^{}]*\}", "", selected)
    assert re.fullmatch(r"(-?@[a-z]+:(=>)? ?)*", rest)


@pytest.mark.parametrize(
    "where",
    [
        Filter(),
        Filter(superseded=True),
        Filter(pinned=False),
        Filter((none_of(TagField.USER, ["a"]),)),
        Filter((types(MemoryType.MESSAGE),)),
        Filter((starts_with(TagField.TYPE, "m"),)),
        Filter((created_between(datetime(2025, 1, 1, tzinfo=UTC), None),)),
    ],
)
def test_a_filter_that_names_nobody_names_the_tenant(where: Filter) -> None:
    """Nothing is asked across tenants."""
    assert memory_index.selection("t", where).startswith(f"@tenant:{{{memory_index.tenant_tag('t')}|")


def test_times_may_be_bounded_on_either_side() -> None:
    first, last = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)

    def span(*bounds: datetime | None, **given: bool) -> str:
        rule = TimeRule(TimeField.EVENT_DATE, bounds[0], bounds[1], **given)
        return memory_index.selection("t", Filter((rule,), superseded=True)).partition("0} ")[2]

    assert span(None, last) == "@event_date:[-inf 1735776000.000000]"
    assert span(first, None, first_counts=False) == "@event_date:[(1735689600.000000 +inf]"
    assert span(first, last, last_counts=False) == "@event_date:[1735689600.000000 (1735776000.000000]"
    assert span(first, last, excluded=True).startswith("-@event_date:[")
    assert span(None, None) == "@event_date:[-inf +inf]"
    assert "created_at" not in memory_index.selection("t", Filter((created_between(None, None),)))


def test_labels_meet_whatever_their_case() -> None:
    """ "Food" and "food" are one topic; a user "Bob" is another than "bob"; two tenants share nothing."""
    assert memory_index.tag(T, TagField.TOPICS, "Straße") == memory_index.tag(T, TagField.TOPICS, "STRASSE")
    assert memory_index.tag(T, TagField.USER, "Bob") != memory_index.tag(T, TagField.USER, "bob")
    assert memory_index.tag(T, TagField.TOPICS, "food") != memory_index.tag(
        memory_index.tenant_tag("u"), TagField.TOPICS, "food"
    )
    assert memory_index.tags(T, TagField.TOPICS, ["food", "FOOD", "cars"]).count(",") == 1


@given(st.lists(st.none() | st.text(max_size=4) | st.sampled_from(["", "x" * 1_000, "x" * 1_001]), unique=True))
def test_different_values_have_different_tags(values: Sequence[str | None]) -> None:
    """None, nothing, and what looks like a tag are three."""
    assert len({memory_index.tag(T, TagField.USER, value) for value in values}) == len(values)


def test_tags_are_as_long_as_the_engine_takes() -> None:
    """It would cut a longer one, and never find it."""
    assert len(memory_index.tag(T, TagField.ID, "é" * 100_000)) < 4_096
