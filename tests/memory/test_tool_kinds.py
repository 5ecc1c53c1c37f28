"""What a tool does, told from its annotations or its name: in doubt it changes something."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.memory.tool_kinds import (
    BY_THEMSELVES,
    HELPERS,
    NOUN_VERBS,
    QUESTIONS,
    READ_VERBS,
    WRITE_VERBS,
    ToolKind,
    changes_only_by_calls,
    kind_by_annotations,
    kind_by_name,
)

READS = """
    get_order_details getUserDetails GetUser GET_USER HTTPGet get list_orders list_pull_request_reviews search
    find_user_id_by_name_zip find_user_by_name_and_zip lookup-user look_up_user read_file ReadFile view_file fetch ls
    mcp__server__get_x mcp__send_server__list_things mcp__delete__get server.get_x api/get_x settings_get web_search
    slack_get_channel_history github_get_issue query_knowledge_base read_query is_set can_cancel_order has_permission
    list_deleted_users get_x_then_y
""".split()  # noqa: SIM905  a block of words reads better than a list of strings

WRITES = """
    get_and_delete search_and_replace read_write_file list_append checkout check_out check-in CheckInPassenger
    find_or_create find_and_order fetch_mail_and_forward files.delete.get get_set run_query execute_sql update_get
    cancel_order createOrder order_pizza post_search mark_as_read search_n_destroy can_and_delete calculate_and_apply
    get2delete ask_user open_file
""".split()  # noqa: SIM905  a block of words reads better than a list of strings

UNKNOWNS = """
    shopping_list background_check query query_database sql_query mcp__db__query slack_list_channels bash python
    get_user_input get_next_job getuser deletes_user status find_and_prune get_удалить 搜索 __ 7
""".split()  # noqa: SIM905  a block of words reads better than a list of strings

HELPS = """
    think calculate think_tool sequentialthinking get_current_time get_job_status getHTTPStatus get_logs is_status_green
""".split()  # noqa: SIM905  a block of words reads better than a list of strings


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, ToolKind.READ) for name in READS),
        *((name, ToolKind.WRITE) for name in WRITES),
        *((name, ToolKind.UNKNOWN) for name in UNKNOWNS),
        *((name, ToolKind.HELPER) for name in HELPS),
    ],
)
def test_a_name_says_what_the_tool_does(name: str, kind: ToolKind) -> None:
    """Most tools come without annotations; only what surely reads may be answered from memory."""
    assert kind_by_name(name) is kind


def test_an_empty_name_says_nothing() -> None:
    """Broken calls are passed on, and taken for anything."""
    assert kind_by_name("") is ToolKind.UNKNOWN


@given(
    st.sampled_from(sorted(READ_VERBS)),
    st.lists(st.sampled_from(["user", "order", "by", "id", "x"]), max_size=3),
    st.sampled_from(sorted(WRITE_VERBS)),
    st.lists(st.sampled_from(["user", "order", "by", "id", "x"]), max_size=3),
    st.sampled_from(["_", "-", ".", "__", "camel"]),
)
def test_a_verb_that_writes_is_found_wherever_it_stands(
    reads: str, before: list[str], writes: str, after: list[str], joint: str
) -> None:
    """A write that was answered from memory would not happen."""
    words = [reads, *before, writes, *after]
    name = "".join(word.capitalize() for word in words) if joint == "camel" else joint.join(words)
    assert kind_by_name(name) is ToolKind.WRITE


@given(st.text(max_size=30))
def test_any_name_has_a_kind(name: str) -> None:
    """Models make up names."""
    assert kind_by_name(name) in ToolKind
    assert changes_only_by_calls(name) in {True, False}


def test_no_verb_says_two_things() -> None:
    """A word in two lists would mean what the order of the code says."""
    lists = [READ_VERBS, WRITE_VERBS, NOUN_VERBS, HELPERS, QUESTIONS]
    assert len(frozenset().union(*lists)) == sum(map(len, lists))
    assert not BY_THEMSELVES & (READ_VERBS | WRITE_VERBS)


@pytest.mark.parametrize(
    ("hints", "kind"),
    [
        ({"readOnlyHint": True}, ToolKind.READ),
        ({"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True}, ToolKind.READ),
        ({"readOnlyHint": True, "destructiveHint": True}, ToolKind.WRITE),
        ({"readOnlyHint": False}, ToolKind.WRITE),
        ({"destructiveHint": True}, ToolKind.WRITE),
        ({"destructiveHint": False}, ToolKind.WRITE),
        ({"idempotentHint": True}, ToolKind.WRITE),
        ({"title": "Orders", "openWorldHint": True}, None),
        ({"readOnlyHint": "true"}, None),
        ({}, None),
    ],
)
def test_a_tool_says_itself_what_it_does(hints: dict[str, Any], kind: ToolKind | None) -> None:
    """Who wrote the tool knows better than its name; contradictions are taken for the worse."""
    assert kind_by_annotations({"type": "function", "function": {"name": "x"}, "annotations": hints}) is kind
    assert kind_by_annotations({"type": "function", "function": {"name": "x", "annotations": hints}}) is kind


@pytest.mark.parametrize("definition", [None, {}, {"annotations": "none"}, {"function": "x", "annotations": None}])
def test_a_tool_without_annotations_says_nothing(definition: dict[str, Any] | None) -> None:
    """Then its name decides."""
    assert kind_by_annotations(definition) is None


@pytest.mark.parametrize("kind", list(ToolKind))
def test_what_is_not_known_to_be_harmless_clears(kind: ToolKind) -> None:
    """Measured on real agents: without this a quarter of the answers is wrong."""
    assert kind.clears is (kind not in {ToolKind.READ, ToolKind.HELPER})
