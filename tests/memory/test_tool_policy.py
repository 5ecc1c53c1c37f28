"""The tools file: what it says is done, and what can't be understood is refused with its place."""

import re
from typing import Any

import pytest

from memproxy.errors import SettingsError
from memproxy.memory.tool_kinds import ToolKind
from memproxy.memory.tool_policy import ToolPolicy, parse_policy
from memproxy.storage.tool_results import CacheScope, Clear
from tests.rules.source import ROOT

FILE = ROOT / "config" / "tools.toml"

SHOP = parse_policy(
    """
    ttl_s = 60
    allow = ["run_speed_test", "q_*"]
    deny = ["q_dangerous", "get_next_*"]
    helpers = ["convert_*", "q_help"]
    [[rules]]
    tools = ["get_stock_*"]
    ttl_s = 1.5
    [[rules]]
    tools = ["get_*"]
    ttl_s = 5
    scope = "user"
    [[rules]]
    tools = ["list_airports"]
    scope = "tenant"
    [groups]
    orders = ["get_order_*", "list_orders"]
    people = ["get_user", "get_order_owner"]
    nobody = []
    [[clears]]
    tools = ["cancel_order"]
    groups = ["orders"]
    [[clears]]
    tools = ["cancel_*"]
    groups = []
    """,
    source="shop.toml",
)


def test_the_file_that_comes_along_changes_nothing() -> None:
    """It can be copied and changed entry by entry, and shows the defaults."""
    assert parse_policy(FILE.read_text("utf-8"), source="tools.toml") == ToolPolicy() == parse_policy("", source="")


def test_the_examples_in_the_file_are_valid() -> None:
    """Whoever uncomments one gets what it says."""
    text = re.sub(r"^(allow|deny|helpers) = \[\]\n", "", FILE.read_text("utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^# Example: ", "", text, flags=re.MULTILINE)
    text = re.sub(r"^# (\[|[a-z_]+ = )", r"\1", text, flags=re.MULTILINE)
    policy = parse_policy(text, source="tools.toml")
    assert all((policy.allow, policy.deny, policy.helpers, policy.rules, policy.groups, policy.clears))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("run_speed_test", ToolKind.READ),
        ("q_anything", ToolKind.READ),
        ("q_dangerous", ToolKind.WRITE),
        ("q_help", ToolKind.HELPER),
        ("get_next_ticket", ToolKind.WRITE),
        ("convert_currency", ToolKind.HELPER),
        ("get_order", ToolKind.READ),
        ("Run_speed_test", ToolKind.WRITE),
    ],
)
def test_the_operator_decides_first(name: str, kind: ToolKind) -> None:
    """Deny before helpers, helpers before allow; then the name, here as no annotations are there."""
    assert SHOP.kind_of(name, None) is kind


def annotated(**hints: bool) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "x", "annotations": hints}}


def test_annotations_come_before_the_name_and_behind_the_operator() -> None:
    """The tool's author knows what the name does not say; the operator knows whether to believe it."""
    assert SHOP.kind_of("weather", annotated(readOnlyHint=True)) is ToolKind.READ
    assert SHOP.kind_of("get_weather", annotated(readOnlyHint=False)) is ToolKind.WRITE
    assert SHOP.kind_of("q_dangerous", annotated(readOnlyHint=True)) is ToolKind.WRITE
    assert SHOP.kind_of("run_speed_test", annotated(destructiveHint=True)) is ToolKind.READ


def test_what_reads_and_changes_by_itself_is_not_kept() -> None:
    """A tool that says it reads may still tell the time."""
    assert SHOP.kind_of("current_time", annotated(readOnlyHint=True)) is ToolKind.HELPER


def test_the_first_rule_that_says_it_decides() -> None:
    """Each of time to live and scope is looked up for itself."""
    assert [SHOP.ttl_of(name) for name in ("get_stock_price", "get_user", "list_airports", "x")] == [1.5, 5, 60, 60]
    assert [SHOP.scope_of(name) for name in ("get_stock_price", "list_airports", "x")] == [
        CacheScope.USER,
        CacheScope.TENANT,
        CacheScope.SESSION,
    ]
    assert SHOP.scopes == frozenset(CacheScope)
    assert ToolPolicy().scopes == {CacheScope.SESSION}


def test_groups_say_what_a_call_puts_out_of_date() -> None:
    """A cancelled order says nothing about products; a call that nobody described says nothing about anything."""
    assert SHOP.groups_of("get_order_owner") == {"orders", "people"}
    assert SHOP.groups_of("get_stock_price") == frozenset()
    assert SHOP.clear_of("cancel_order") == Clear(frozenset({"orders"}))
    assert SHOP.clear_of("cancel_flight") == Clear(frozenset())
    assert SHOP.clear_of("pay") == Clear(None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttl_s = 1\nallow = [x]", "line 2"),
        ("ttl_s = 1\nttl_s = 2\n", "line 2"),
        ("a = " + "[" * 5_000, "TOML"),
        ("ttl = 1", "`ttl` is not known; known are allow"),
        ("ttl_s = -1", "`ttl_s` must not be negative"),
        ("ttl_s = '1'", "`ttl_s` must be a number"),
        ("ttl_s = true", "`ttl_s` must be a number"),
        ("ttl_s = inf", "`ttl_s` must be a number"),
        ("ttl_s = nan", "`ttl_s` must be a number"),
        ("max_results = 0", "`max_results` must be a whole number"),
        ("max_results = true", "`max_results` must be a whole number"),
        ("max_result_bytes = 1.5", "`max_result_bytes` must be a whole number"),
        ("allow = 'get_*'", "`allow` must be a list"),
        ("deny = [1]", "`deny` must be a list"),
        ("helpers = ['']", "`helpers` holds an empty pattern"),
        ("allow = ['x', ' ']", "`allow` holds an empty pattern"),
        ("allow = ['a', 'b']\ndeny = ['b']", "`b` stands in both `allow` and `deny`"),
        ("helpers = ['b']\ndeny = ['b']", "`b` stands in both `deny` and `helpers`"),
        ("rules = 1", "`rules` must be written as tables, each under [[rules]]"),
        ("[rules]\ntools = ['x']", "each under [[rules]]"),
        ("[[rules]]\ntools = ['x']", "`rules[1]` says neither"),
        ("[[rules]]\nttl_s = 1", "`rules[1].tools` must be a list"),
        ("[[rules]]\ntools = []\nttl_s = 1", "`rules[1].tools` names no tool"),
        ("[[rules]]\ntools = ['x']\nttl_s = 1\n[[rules]]\ntools = ['x']\nttl_s = -2", "`rules[2].ttl_s`"),
        ("[[rules]]\ntools = ['x']\nscope = 'world'", "one of session, user, tenant, not 'world'"),
        ("[[rules]]\ntools = ['x']\nscope = ['user']", "one of session, user, tenant"),
        ("[[rules]]\ntools = ['x']\nttl = 1", "`rules[1].ttl` is not known"),
        ("groups = 1", "`groups` must be a table"),
        ("[groups]\norders = 'x'", "`groups.orders` must be a list"),
        ("[groups]\norders = ['']", "`groups.orders` holds an empty pattern"),
        ("[groups]\n'' = ['x']", "a group without a name"),
        ("[[clears]]\ntools = ['x']", "`clears[1].groups` must be a list"),
        ("[[clears]]\ntools = ['x']\ngroups = ['orders']", "names the group 'orders'"),
        ("[[clears]]\ntools = ['']\ngroups = []", "`clears[1].tools` holds an empty pattern"),
        ("[[clears]]\ngroup = []", "`clears[1].group` is not known"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, said: str) -> None:
    """An entry that was passed over would be a wrong answer later."""
    with pytest.raises(SettingsError) as caught:
        parse_policy(text, source="shop.toml")
    assert "shop.toml" in str(caught.value)
    assert said in str(caught.value)
