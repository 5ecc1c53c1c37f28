"""Which results may be given again: no errors, nothing empty, nothing unfinished, and everything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.memory.tool_outcome import is_cacheable_result

RESULTS = [
    "available",
    "0",
    "false",
    "3.5",
    "404",
    '"noah_ito"',
    "# Errors\n\nHow they are handled.",
    "def f():\n    raise ValueError('x')",
    "README: how errors are handled",
    "The following errors were fixed in this release: ...",
    "Wi-Fi calling is currently turned OFF.",
    "Email: a@b.c",
    "Excellent",
    "[1, 2]",
    "[not json",
    '{"a": 1}',
    '{"balance": 0}',
    '{"enabled": false}',
    '{"error": null, "data": [1]}',
    '{"error": "none", "id": 1}',
    '{"errors": 0, "warnings": 2}',
    '{"errors": [], "data": {"a": 1}}',
    '{"success": true, "result": 5}',
    '{"isError": false, "content": [{"type": "text", "text": "fine"}]}',
    '{"status": "ok", "code": 200, "data": {"x": 1}}',
    '{"status": "pending", "order_id": 7}',
    '{"code": "404-B", "name": "x"}',
    '{"code": 90210}',
    '{"exit_code": 0, "stdout": "x"}',
    '{"order": {"status": "failed"}}',
    '{"id": 1, "note": "an error occurred in the mail", "status": "shipped"}',
    '{"message": "Error budgets", "from": "bob"}',
    '{"message": "Welcome"}',
    '{"name": "Invalid Records"}',
    '{"results": [{"id": 1, "text": "Error: not found"}]}',
    '{"text": "the function failed because of x"}',
    '[{"id": 1, "status": "failed"}, {"id": 2}]',
    '[{"id": 1, "title": "Error handling in Go"}]',
    '[{"type": "text", "text": "fine"}]',
    '{"a": {"b": {"error": "is what a record deep inside calls it"}}}',
]

NO_RESULTS = [
    *("", "  \n", "null", "None", "[]", "{}", '""', '"null"', "undefined", '{"a": null, "b": []}', "[[]]"),
    *('{"result": null}', '{"results": []}', '{"data": {"items": []}}', '{"results": [], "total": 0}'),
    *("No results found.", "No flights found", "Not found", "No such file", '{"content": ""}'),
    *("Error: x", "error", "ERROR 1045", "Exception: y", "ValueError: bad", "KeyError('x')", "a.b.FooException: y"),
    *("requests.exceptions.HTTPError: 404", "Traceback (most recent call last):\n  File", "MCP error -32000: x"),
    *("HTTP 404", "HTTP/1.1 500 Internal", "HTTP Error 503", "429 Too Many Requests", "Internal Server Error"),
    *("Failed to fetch", "Timeout", "Timed out after 3 s", "Request timed out", "Unauthorized", "Access denied"),
    *("Tool execution failed", "Tool call failed: x", "Error executing tool get_x", "Input validation error: x"),
    *("An error occurred", "There was an error", "Sorry, an error", "Oops! x", "I could not find it"),
    *("Speed test failed: No Connection.", "Plan with ID P9 not found", "User does not exist", "user_not_found"),
    *("Request failed with status code 500", "Resource is unavailable", "Network error", "Rate limit exceeded"),
    *("Exit code 1\nls: no", "bash: foo: command not found", "ls: cannot access x: No such file or directory"),
    *("curl: (7) Failed to connect", "fatal: not a git repository", "ENOENT: no such file", "ECONNREFUSED"),
    *("[ERROR] x", "**Error**: x", "<error>x</error>", "<tool_use_error>x", "❌ Failed", "```\nTraceback (most"),
    *("Fehler: x", "错误: x", "<!DOCTYPE html><html><head><title>502 Bad Gateway</title>"),
    *('"Error: boom"', '"\\"Error: boom\\""', '[{"error": "x"}]', '[1, "Error: x"]', '[{"id": 1}, {"error": "x"}]'),
    *('{"error": "x"}', '{"Error": "x"}', '{"error": true}', '{"error": {"message": "x"}}', '{"errors": ["a"]}'),
    *('{"isError": true, "content": []}', '{"is_error": "true"}', '{"error-code": 7}', '{"errors": 3}'),
    *('{"success": false}', '{"success": "false"}', '{"success": 0, "a": 1}', '{"ok": false, "x": 1}'),
    *('{"status": "error", "message": "m"}', '{"status": "Failed"}', '{"status": "FAILURE", "x": 1}'),
    *('{"status": "timed out"}', '{"state": "not-found", "x": 1}', '{"status": "running", "id": 1}'),
    *('{"status": 404, "x": 1}', '{"code": 500, "x": 2}', '{"statusCode": "503"}', '{"exit_code": 1, "stdout": "x"}'),
    *('{"code": -32602, "message": "m"}', '{"jsonrpc": "2.0", "id": 1}', '{"type": "error", "text": "x"}'),
    *('{"detail": "Not Found"}', '{"message": "Not found"}', '{"result": {"error": "x"}}', '{"output": "Error: x"}'),
    *('{"data": null, "errors": [{"message": "x"}]}', '{"content": [{"type": "text", "text": "Error: boom"}]}'),
]


@pytest.mark.parametrize("content", RESULTS)
def test_a_result_is_kept(content: str) -> None:
    """A record that speaks of an error is no error."""
    assert is_cacheable_result(content)


@pytest.mark.parametrize("content", NO_RESULTS)
def test_what_is_no_result_is_not_kept(content: str) -> None:
    """An error that was kept would be told again after its cause is gone."""
    assert not is_cacheable_result(content)


@pytest.mark.parametrize("content", NO_RESULTS)
def test_what_is_no_result_is_not_kept_as_a_part(content: str) -> None:
    """Frameworks send text as a list of parts, too."""
    assert not is_cacheable_result([{"type": "text", "text": content}])


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ([{"type": "text", "text": "fine"}], True),
        (["fine"], True),
        ([{"type": "text", "text": ""}, {"type": "text", "text": "fine"}], True),
        ([IMAGE], True),
        ([{"type": "text", "text": ""}, IMAGE], True),
        ([{"type": "text", "text": "Error: x"}, IMAGE], False),
        ([{"type": "text", "text": "fine"}, {"type": "text", "text": "Error: x"}], False),
        ([{"type": "text", "text": '{"err'}, {"type": "text", "text": 'or": 1}'}], False),
        ([], False),
        ([{"type": "text", "text": " "}], False),
        (None, False),
        (7, False),
        ({"type": "text", "text": "fine"}, False),
    ],
)
def test_every_part_counts(content: object, kept: bool) -> None:
    """One part that reports a failure spoils the whole, and words may be spread over parts."""
    assert is_cacheable_result(content) is kept


WORDS = st.lists(
    st.sampled_from(["error", "failed", "Error:", "timeout", "the", "order", "not found", "exception"]), min_size=1
).map(" ".join)


@given(st.dictionaries(st.sampled_from(["note", "comment", "description", "subject", "log_line"]), WORDS, min_size=1))
def test_words_in_a_records_fields_are_no_errors(fields: dict[str, str]) -> None:
    """Tickets and mails are about errors more often than not."""
    assert is_cacheable_result(json.dumps({"id": 17, **fields}))
    assert is_cacheable_result(json.dumps([{"id": 17, **fields}]))
    assert is_cacheable_result(json.dumps({"result": {"id": 17, **fields}}))


@given(st.dictionaries(st.sampled_from(["id", "name", "note", "value", "tags"]), st.integers() | WORDS), WORDS)
def test_an_error_beside_other_fields_is_found(fields: dict[str, Any], message: str) -> None:
    """Servers give request ids, hints and partial results along with an error."""
    assert not is_cacheable_result(json.dumps({**fields, "error": message + "!"}))
    assert not is_cacheable_result(json.dumps({"data": {**fields, "isError": True}}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["error", "errors", "isError", "success", "status", "code", "message", "type", "content", "data"]
)


@given(JSON | st.dictionaries(FIELDS, JSON))
def test_any_result_is_judged(value: object) -> None:
    """Tools answer anything; a crash here would be the user's."""
    for content in (json.dumps(value), str(value), value, [value], [{"type": "text", "text": json.dumps(value)}]):
        assert is_cacheable_result(content) in {True, False}


def test_deep_and_long_results_are_judged_in_no_time() -> None:
    """A result is looked at while a request waits."""
    for content in ("[" * 60_000, "- " * 30_000, "error" * 12_000, "a " * 30_000, '{"data":' * 50 + "1" + "}" * 50):
        assert is_cacheable_result(content) in {True, False}
