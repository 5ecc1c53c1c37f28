"""JSON as models write it."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.loose_json import read_json, without_thoughts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        ("[]", []),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here you are:\n```\n[{"a": 1}]\n```\nAnything else?', [{"a": 1}]),
        ('```json\n{"a": 1}', {"a": 1}),
        ('Of the notes [1] and {2} I made {"a": [1, 2, 3]}.', {"a": [1, 2, 3]}),
        ('{"a": [1, 2,], "b": 3,\n}', {"a": [1, 2], "b": 3}),
        ('{"a": "one,] two,}"}', {"a": "one,] two,}"}),
        ('{"a": "a \\"quoted,} word\\""}', {"a": 'a "quoted,} word"'}),
        ('{"a": "line\nbreak"}', {"a": "line\nbreak"}),
        ('<think>{"a": "a thought that is longer than the answer"}</think>{"a": 1}', {"a": 1}),
        ('{"a": "a thought that lost its beginning"}</think>{"a": 1}', {"a": 1}),
        ("\ufeff {}", {}),
        ('{"m": [{"a": 1}, {"a": 2}, {"a": 3', {"m": [{"a": 1}, {"a": 2}]}),
        ('{"m": [{"a": 1}, {"a": "]}', {"m": [{"a": 1}]}),
        ('{"m": [{"a": 1}, {"a": "\\', {"m": [{"a": 1}]}),
        ('```json\n[{"a": 1}, {"a"', [{"a": 1}]),
        ('{"a": 1, "b": "cut of', {"a": 1}),
        ('{"a": 1, "b": fal', {"a": 1}),
        ('{"m": [{"a": 1}, {"a": nonsense}, {"a": 3}]}', {"m": [{"a": 1}, {"a": "nonsense"}, {"a": 3}]}),
        ("{'a': 1, 'b': None, 'c': True}", {"a": 1, "b": None, "c": True}),
        ("{'a': 'Ann's dog', 'b': 'x\\'y'}", {"a": "Ann's dog", "b": "x'y"}),
        ('{"a": "He said "hi", and left", "b": 2}', {"a": 'He said "hi", and left', "b": 2}),
        ('{"a": "x" "b": 2}', {"a": "x", "b": 2}),
        ("{a: 'x', b: 2, c: plain words}", {"a": "x", "b": 2, "c": "plain words"}),
        ('{"a": 1, // one\n # two\n "b": /* three */ 2}', {"a": 1, "b": 2}),
        ('{"a": "http://x.org/#y"}', {"a": "http://x.org/#y"}),
        ("{\u201ca\u201d: \u201cb c\u201d}", {"a": "b c"}),
        ('{"a": 1; "b": -2.5e1}', {"a": 1, "b": -25.0}),
        ("{'a': \"x\\u00e9\\q\\n\"}", {"a": "xé\\q\n"}),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('1. {"a": 1}\n2. {"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1} and then {"b": 22}', {"b": 22}),
        ('{"b": 22} and then {"a": 1}', {"b": 22}),
        ('[{"a": 1}, ...]', [{"a": 1}]),
        ('[{"a": 1}, and also {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"a": {"b": [1, {"c": 2', {"a": {"b": [1]}}),
    ],
)
def test_what_models_do_to_json_is_forgiven(text: str, value: Any) -> None:
    """Small local models work."""
    assert read_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "No memories.", "42", "null", '"words"', '{"a": ', '{"a": "cut', '{"m": [', "[}", "{1: 2}", "{a b}"),
        *('{"a": [1}, 2', "[see the notes]", '{"a": 1', "[" * 100_000, "[1, (] " * 999, "<think>{}"),
    ],
)
def test_what_is_no_json_is_said_so(text: str) -> None:
    """Rather a second try than an invented answer."""
    with pytest.raises(ValueError, match="no object or list"):
        read_json(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        ("<THINKING>a\n</thinking> b", " b"),
        ("a</think>b</think>c", "c"),
        ("a<think>b", "a"),
        ("a <reasoning>b</reasoning>c", "a c"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(text: str, left: str) -> None:
    """What a model only considered must not be taken for what it says."""
    assert without_thoughts(text) == left


@pytest.mark.parametrize("text", ['{"a": "' + 'x" y ' * 40_000, "{" * 200_000, '{"a": ' * 50_000, "['" * 99_999])
def test_no_answer_takes_long(text: str) -> None:
    """A model that runs in circles costs its tokens, not the worker's time."""
    began = time.process_time()
    with contextlib.suppress(ValueError):
        read_json(text)
    assert time.process_time() - began < 2


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), nested, max_size=4), st.integers(0, 400))
def test_json_is_read_as_it_stands_and_never_crashes_when_cut(value: dict[str, Any], cut: int) -> None:
    """Leniency changes no correct answer."""
    text = json.dumps(value, ensure_ascii=False)
    if "<" not in text:
        assert read_json(text) == value
    with contextlib.suppress(ValueError):
        read_json(text[:cut])


@given(st.text("{}[]\"'`:,; \\\n/#*abctrufalsn01.-\u201c\u201d", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever comes, it is a value or a ValueError."""
    with contextlib.suppress(ValueError):
        assert isinstance(read_json(text), dict | list)


written = st.dictionaries(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
    st.from_regex(r"[A-Za-z][A-Za-z0-9 .!?-]{0,20}[A-Za-z]", fullmatch=True) | st.integers(-99, 99) | st.none(),
    min_size=1,
    max_size=4,
)


@given(st.lists(written, min_size=1, max_size=3))
def test_python_literals_are_read_like_json(value: list[dict[str, Any]]) -> None:
    """Models print what a program would print."""
    assert read_json(str({"memories": value})) == {"memories": value}
