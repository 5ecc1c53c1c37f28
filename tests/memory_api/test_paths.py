"""Which paths under `/v1` are the memory API's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.identity import split_path
from memproxy.memory_api.paths import RESOURCES, api_path, ids_in


@pytest.mark.parametrize(
    ("raw", "identity", "path"),
    [
        (b"/v1/health", b"/v1", b"/v1/health"),
        (b"/v1/health/", b"/v1", b"/v1/health/"),
        (b"/v1/long-term-memory", b"/v1", b"/v1/long-term-memory"),
        (b"/v1/long-term-memory/a%2Fb/c", b"/v1", b"/v1/long-term-memory/a%2Fb/c"),
        (b"/v1/memory/prompt", b"/v1", b"/v1/memory/prompt"),
        (b"//v1//tasks/1", b"//v1", b"/v1/tasks/1"),
        (b"/u/alice/v1/working-memory/s", b"/u/alice/v1", b"/v1/working-memory/s"),
        (b"/n/x/u/al%2Fice/v1/summary-views", b"/n/x/u/al%2Fice/v1", b"/v1/summary-views"),
    ],
)
def test_the_apis_paths_are_taken_apart(raw: bytes, identity: bytes, path: bytes) -> None:
    """They are served with and without a trailing slash, and an identity may stand before them."""
    found = api_path(raw)
    assert found is not None
    assert (found.identity, found.path) == (identity, path)


@pytest.mark.parametrize(
    "raw",
    [
        b"/v1/chat/completions", b"/v1/models", b"/v1/memory", b"/v1/memory/other", b"/v1/healthy", b"/v1", b"/",
        b"/health", b"/u/v1/health", b"/u/alice/v1/chat/completions", b"/v1/files/long-term-memory", b"/v2/health",
        b"/u/alice%2Fv1%2Ftasks/x", b"",
    ],
)  # fmt: skip
def test_all_others_stay_the_providers(raw: bytes) -> None:
    """A provider's resource must not vanish behind one of ours."""
    assert api_path(raw) is None


SEGMENTS = st.sampled_from([b"u", b"n", b"s", b"v1", b"alice", b"", b"health", b"tasks", b"memory", b"prompt", b"%2F"])


@given(st.lists(SEGMENTS, max_size=8))
def test_the_identity_is_what_the_proxy_would_take_off(segments: list[bytes]) -> None:
    """One path never means two users, one to the proxy and another to the memory API."""
    raw = b"/" + b"/".join(segments)
    found = api_path(raw)
    if found is None or b"//" in raw:
        return
    assert split_path(found.identity).claims == split_path(raw).claims
    assert found.path == b"/v1" + split_path(raw).rest
    assert found.path.split(b"/")[2] in RESOURCES


@pytest.mark.parametrize(
    ("path", "ids"),
    [
        (b"/v1/tasks/01ABC", ["01ABC"]),
        (b"/v1/tasks/01ABC/", ["01ABC"]),
        (b"/v1/tasks/a/b//c", ["a/b//c"]),
        (b"/v1/tasks/a%20b", ["a b", "a%20b"]),
        (b"/v1/tasks/50%25", ["50%", "50%25"]),
        (b"/v1/tasks/%C3%BC", ["ü", "%C3%BC"]),
        (b"/v1/tasks/%FF", ["\ufffd", "%FF"]),
    ],
)
def test_ids_are_read_both_ways(path: bytes, ids: list[str]) -> None:
    """The client does not escape the ids that it puts into paths."""
    assert ids_in(path, below="tasks") == ids
