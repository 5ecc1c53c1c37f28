"""What the model is told about the memory tools, and what may be read of its calls."""

import json
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.proxy import memory_tool_forms as forms
from memproxy.proxy.memory_tool_forms import ARGUMENTS, PREFIX, UnusableCallError, definitions, read_call
from memproxy.records import MemoryType, ToolCall
from memproxy.tokens import count_tokens


def read(name: str, arguments: str) -> forms.Arguments:
    return read_call(ToolCall("call-1", PREFIX + name, arguments))


def functions() -> dict[str, dict[str, Any]]:
    return {tool["function"]["name"]: tool["function"] for tool in definitions()}


def test_definitions_are_always_the_same_bytes() -> None:
    """They stand at the beginning of every prompt: a changed byte costs the provider's whole prompt cache."""
    first = definitions()
    written = msgspec.json.encode(first)
    first[0]["function"]["parameters"]["properties"].clear()
    assert msgspec.json.encode(definitions()) == written


def test_definitions_are_what_chat_completions_takes() -> None:
    assert [tool["type"] for tool in definitions()] == ["function"] * 6
    for name, function in functions().items():
        assert name.startswith(PREFIX)
        assert function["description"]
        assert function.keys() == {"name", "description", "parameters"}
        parameters = function["parameters"]
        assert parameters["type"] == "object"
        assert set(parameters["required"]) <= parameters["properties"].keys()
        assert all(each["description"] for each in parameters["properties"].values())


def test_definitions_cost_little() -> None:
    """Every request pays for them."""
    assert count_tokens(msgspec.json.encode(definitions()).decode()) < 1_050


def test_definitions_and_forms_agree() -> None:
    """What the model is told to write is what is read."""
    assert list(functions()) == list(ARGUMENTS)
    assert set(ARGUMENTS.values()) == set(get_args(forms.Arguments))
    for name, form in ARGUMENTS.items():
        parameters = functions()[name]["parameters"]
        assert tuple(parameters["properties"]) == form.__struct_fields__
        assert {field.name for field in msgspec.structs.fields(form) if field.required} <= set(parameters["required"])
    (memories,) = functions()["memproxy_create_memories"]["parameters"]["properties"].values()
    assert tuple(memories["items"]["properties"]) == forms.NewMemory.__struct_fields__


@pytest.mark.parametrize("word", ["$ref", "$defs", "anyOf", "oneOf", "default", "minimum", "strict"])
def test_definitions_use_only_what_every_provider_takes(word: str) -> None:
    """Some servers refuse the whole request for one word of a schema that they don't know."""
    assert f'"{word}"' not in json.dumps(definitions())


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}"])
def test_a_call_without_arguments_is_read(arguments: str) -> None:
    """Providers write "no arguments" in four ways."""
    assert read("get_current_datetime", arguments) == forms.Now()


def test_arguments_are_read_leniently() -> None:
    """Small models write numbers as strings, fill what they leave out with null, and make up parameters."""
    written = (
        '{"query": "tea", "limit": "5", "memory_type": null, "topics": "food", "entities": null, "user_id": "bob"}'
    )
    assert read("search_memory", written) == forms.Search("tea", 5, topics="food")
    assert read("search_memory", '{"memory_type": "episodic"}') == forms.Search(memory_type=MemoryType.EPISODIC)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("search_memory", '{"query": ', "truncated"),
        ("search_memory", "query: tea", "malformed"),
        ("search_memory", "[]", "Expected `object`"),
        ("search_memory", '{"query": 5}', r"\$\.query"),
        ("search_memory", '{"memory_type": "%s"}' % ("x" * 900), "Invalid enum value"),
        ("search_memory", '{"query": "\ud800"}'.replace("\ud800", "\\ud800"), "can't be used"),
        ("create_memories", "{}", "missing required field `memories`"),
        (
            "create_memories",
            '{"memories": [{"text": "a", "memory_type": "message"}]}',
            r"\$\.memories\[0\]\.memory_type",
        ),
        ("edit_memory", '{"text": "a"}', "memory_id"),
        ("update_session_data", '{"data": %s}' % ("[" * 5_000), r"got `array` - at `\$\.data`"),
        ("update_session_data", '{"data": {"a": %s}}' % ("[" * 5_000), "recursion"),
        ("read_minds", "{}", "memproxy_search_memory, memproxy_create_memories"),
    ],
)
def test_what_can_not_be_read_is_said(name: str, arguments: str, says: str) -> None:
    """The model can do it right the next time; and the error is no longer than it needs."""
    with pytest.raises(UnusableCallError, match=says) as caught:
        read(name, arguments)
    assert len(str(caught.value)) < 400


def test_labels_are_tidied() -> None:
    assert forms.labels_of([" tea ", "tea", "", "food"], "topics") == ("tea", "food")
    assert forms.labels_of(None, "topics") == forms.labels_of("", "topics") == ()
    for value in (["x" * 101], [str(number) for number in range(21)]):
        with pytest.raises(UnusableCallError, match="entities may hold 20 labels"):
            forms.labels_of(value, "entities")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2025-03-01", "2025-03-01T00:00:00+00:00"),
        (" 2025-03-01T12:30:00Z ", "2025-03-01T12:30:00+00:00"),
        ("2025-03-01T12:30+02:00", "2025-03-01T10:30:00+00:00"),
    ],
)
def test_times_are_utc(written: str, expected: str) -> None:
    at = forms.time_of(written, "event_date")
    assert at is not None
    assert at.isoformat() == expected


@pytest.mark.parametrize("written", ["yesterday", "2025-13-01", "0001-01-01T00:00:00+23:00", "9999-12-31T23:00-12:00"])
def test_what_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(UnusableCallError, match="event_date must be an ISO 8601"):
        forms.time_of(written, "event_date")
    assert forms.time_of(" ", "event_date") is None


def test_numbers_and_sizes_have_limits() -> None:
    """A model in a loop must not fill the store."""
    one = forms.NewMemory("Alice likes tea")
    assert forms.memories_of(forms.Create([one] * 20)) == [one] * 20
    assert forms.ids_of(forms.Delete("a")) == ["a"]
    assert forms.ids_of(forms.Delete(["a", "b", "a"])) == ["a", "b"]
    assert forms.text_of(" " + "x" * 4_000) == "x" * 4_000
    for number in (0, 21):
        with pytest.raises(UnusableCallError, match=f"memories holds {number}; 1 to 20"):
            forms.memories_of(forms.Create([one] * number))
    with pytest.raises(UnusableCallError, match="memory_ids holds 51; 1 to 50"):
        forms.ids_of(forms.Delete([str(number) for number in range(51)]))
    with pytest.raises(UnusableCallError, match="4001 characters; at most 4000"):
        forms.text_of("x" * 4_001)
    with pytest.raises(UnusableCallError, match="empty"):
        forms.text_of(" ")


def test_data_may_come_as_a_string() -> None:
    """Models that may only write parameters they know the form of write JSON into a string."""
    assert forms.data_of(forms.UpdateData({"a": [1]})) == forms.data_of(forms.UpdateData('{"a": [1]}')) == {"a": [1]}
    assert forms.data_of(forms.UpdateData(" ")) == {}
    for text in ("[1]", "a", '{"a": ' + "[" * 5_000):
        with pytest.raises(UnusableCallError, match="must be a JSON object"):
            forms.data_of(forms.UpdateData(text))


def test_data_may_not_be_nested_without_end() -> None:
    """What one process can read, another must be able to read, too."""
    deep: Any = {}
    for _ in range(20):
        deep = [deep]
    with pytest.raises(UnusableCallError, match="levels"):
        forms.data_of(forms.UpdateData({"a": deep}))
    assert forms.data_of(forms.UpdateData({"a": deep[0]})) == {"a": deep[0]}


@given(name=st.sampled_from([*ARGUMENTS, "memproxy_", ""]), arguments=st.text())
def test_any_text_is_read_or_refused(name: str, arguments: str) -> None:
    """Models write anything."""
    with suppress(UnusableCallError):
        assert isinstance(read_call(ToolCall("call-1", name, arguments)), forms.Arguments)
