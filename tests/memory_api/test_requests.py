"""Reading requests: who asks, and what is wrong with what they sent."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from memproxy.errors import InvalidInputError
from memproxy.memory_api.requests import Caller, Input, QueryInput, answer, invalid, read_body, read_query


class Body(Input):
    """A body for these tests."""

    count: Annotated[int, Field(ge=1)]
    share: float = 0.5
    label: str = ""
    anything: dict[str, Any] = Field(default_factory=dict)


class Query(QueryInput):
    """A query for these tests."""

    repeated: ClassVar[frozenset[str]] = frozenset({"ids"})
    ids: list[str] = Field(default_factory=list)
    limit: int = 10
    on: bool = False


def problems_of(body: bytes) -> list[dict[str, Any]]:
    """What is said to be wrong with this body."""
    with pytest.raises(InvalidInputError) as caught:
        read_body(Body, body)
    return list(caught.value.problems)


def test_a_body_is_read() -> None:
    """Numbers may be strings, as some clients send them; what is unknown is passed over."""
    assert read_body(Body, b'{"count":"3","more":1}') == Body(count=3)


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        (b'{"count":0}', "greater_than_equal", ["body", "count"]),
        (b"{}", "missing", ["body", "count"]),
        (b"[]", "model_type", ["body"]),
        (b"", "model_type", ["body"]),
        (b'{"count":', "json_invalid", ["body"]),
        (b'{"count":1,"label":"\\ud800"}', "json_invalid", ["body"]),
        (b'{"count":1,"share":1e400}', "finite_number", ["body", "share"]),
        (b'{"count":1' + b"0" * 5000 + b"}", "json_invalid", ["body"]),
        (b'{"anything":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}", "json_invalid", ["body"]),
        (b"\xff\xfe", "json_invalid", ["body"]),
    ],
)
def test_what_is_wrong_is_told_as_fastapi_does(body: bytes, kind: str, loc: list[str]) -> None:
    """Clients show the place and the reason; nothing that can be sent is an internal error."""
    problem = problems_of(body)[0]
    assert problem["type"] == kind
    assert problem["loc"] == loc
    assert problem["msg"]
    assert problem.keys() == {"type", "loc", "msg", "input"}


@given(
    st.dictionaries(
        st.sampled_from(["count", "share", "label", "anything"]),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
)
def test_any_refusal_can_be_written(body: dict[str, Any]) -> None:
    """What was wrong is said back, cut, whatever it was."""
    try:
        read_body(Body, json.dumps(body).encode())
    except InvalidInputError as error:
        written = answer({"detail": error.problems}).content
        assert len(written) < 100_000
        json.loads(written)


def test_an_immense_mistake_gets_a_short_answer() -> None:
    """Nobody makes the server send back what it was sent, many times over."""
    body = json.dumps({"count": ["x" * 10_000] * 1_000, "label": {"a": "y" * 1_000_000}}).encode()
    with pytest.raises(InvalidInputError) as caught:
        read_body(Body, body)
    assert len(answer(caught.value.problems).content) < 10_000


def test_a_query_is_read() -> None:
    """Of a name that stands twice the last one counts, unless it may stand several times."""
    read = read_query(Query, b"ids=a&ids=b%20c&limit=3&limit=4&on=true&ids=&other=1")
    assert read == Query(ids=["a", "b c", ""], limit=4, on=True)
    assert read_query(Query, b"") == Query()
    assert read_query(Query, "ids=%C3%BC&ids=ü".encode()).ids == ["ü", "ü"]


@pytest.mark.parametrize("query", [b"limit=", b"limit=x", b"limit=%FF", b"on=maybe", b"limit=1e400"])
def test_a_query_that_can_not_be_read_is_refused(query: bytes) -> None:
    """An empty value is an unset variable; it must not mean everything."""
    with pytest.raises(InvalidInputError) as caught:
        read_query(Query, query)
    assert caught.value.problems[0]["loc"][0] == "query"


def test_a_single_problem_has_the_same_form() -> None:
    """What a handler finds reads like what the model finds."""
    error = invalid("must not be blank", loc=["body", "messages", 0], input_=" ")
    assert error.problems == [
        {"type": "value_error", "loc": ["body", "messages", 0], "msg": "must not be blank", "input": " "}
    ]


def test_answers_have_times_that_end_in_z() -> None:
    """So does the reference's, and clients in some languages insist on it."""
    assert answer({"at": datetime(2024, 1, 1, tzinfo=UTC)}).content == b'{"at":"2024-01-01T00:00:00Z"}'


def test_the_owner_is_whom_the_request_names_or_the_operators_default() -> None:
    """The proxy and the memory API find the same person's memory."""
    assert Caller("t", "alice", default_user="me").owner == "alice"
    assert Caller("t", default_user="me").owner == "me"
    assert Caller("t").owner is None
