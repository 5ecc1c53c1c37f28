"""The index's names and queries."""

from datetime import UTC, datetime

from memproxy.records import MemoryType, Scope
from memproxy.storage import memory_index
from memproxy.storage.memory_index import Filter

ALICE = Scope("t", "alice")


def test_models_have_indexes_and_fields_of_their_own() -> None:
    """Vectors of different models can't be compared, even if they are equally long."""
    models = [("a", 256), ("a", 512), ("b", 256), ("org/b", 256), ("org-b", 256)]
    assert len({memory_index.index_name(*model) for model in models}) == len(models)
    assert len({memory_index.vector_field(*model) for model in models}) == len(models)


def test_an_index_name_is_plain() -> None:
    """Operators type it into redis-cli."""
    name = memory_index.index_name("org/some model:é", 256)
    assert name.startswith("memproxy-memories-1-org-some-model---256-")
    assert name.isascii()


def test_the_schema_is_what_the_queries_rely_on() -> None:
    """Server-side stemming loses recall, a stop list crashes the engine."""
    schema = memory_index.index_schema("m", 4).to_dict()
    assert schema["index"]["prefix"] == "mp:m:"
    assert schema["index"]["stopwords"] == []
    fields = {field["name"]: field for field in schema["fields"]}
    assert {name for name, field in fields.items() if field["type"] == "tag"} == {
        "user",
        "namespace",
        "session",
        "type",
        "topics",
        "entities",
    }
    assert [(fields[name]["attrs"]["no_stem"], fields[name]["attrs"]["weight"]) for name in ("text", "ctx")] == [
        (True, 3),
        (True, 1),
    ]


def test_text_query_selects_by_the_union_and_scores_by_optional_terms() -> None:
    """Any other form scores wrongly."""
    command = memory_index.text_search("i", "@user:{u|u}=>{$weight: 0}", ["a", "b"], limit=5)
    assert command[2] == "@user:{u|u}=>{$weight: 0} (a|b)=>{$weight: 0} ~a ~b"
    assert command[3:] == ["VERBATIM", "SCORER", "BM25STD", "WITHSCORES", "NOCONTENT", "LIMIT", 0, 5, "DIALECT", 2]


def test_a_selection_names_user_and_namespace_and_nothing_that_was_sent() -> None:
    """No value from outside stands in a query."""
    where = Filter(
        sessions=("s} | *",),
        excluded_sessions=("out",),
        types=(MemoryType.MESSAGE, MemoryType.SEMANTIC),
        topics=("food",),
        entities=("Emma",),
        created_from=datetime(2025, 1, 1, tzinfo=UTC),
    )
    selected = memory_index.selection(Scope("t", "alice|bob", "n*"), where)
    assert not any(word in selected for word in ("alice", "n*", "s}", "out", "food", "Emma"))
    assert selected.startswith("@user:{")
    assert "@type:{message|semantic}=>{$weight: 0}" in selected
    assert selected.endswith("@created_at:[1735689600.0 +inf]")
    assert "-@session:{" in selected


def test_times_may_be_bounded_on_either_side() -> None:
    last = datetime(2025, 1, 1, tzinfo=UTC)
    assert "@created_at:[-inf 1735689600.0]" in memory_index.selection(ALICE, Filter(created_until=last))
    assert "created_at" not in memory_index.selection(ALICE, Filter())


def test_labels_meet_whatever_their_case() -> None:
    """ "Food" and "food" are one topic; a topic and an entity of that name are two things, and so are two tenants'."""
    tag = memory_index.label_tag("topic", ALICE, "Food")
    assert tag == memory_index.label_tag("topic", ALICE, "food")
    assert tag != memory_index.label_tag("entity", ALICE, "food")
    assert tag != memory_index.label_tag("topic", Scope("u", "alice"), "food")
    assert memory_index.tags_of(ALICE, "topic", ["food", "FOOD", "cars"]).count(",") == 1
