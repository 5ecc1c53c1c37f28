"""Chat messages and JSON values for tests of the dialect."""

from typing import Any

from hypothesis import strategies as st

from memproxy.records import JsonObject

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def assistant(content: Any = None, **fields: Any) -> JsonObject:
    """A message of the model."""
    return {"role": "assistant", "content": content, **fields}


def calling(name: str, arguments: Any, *, id: str = "call_1") -> JsonObject:  # noqa: A002  as the field is called
    """One call in such a message."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
