"""What became of tool calls, counted."""

from redis.asyncio import Redis

from memproxy.storage import tool_counts
from memproxy.storage.tool_counts import ToolCounts


async def test_counts_add_up_over_instances(redis: Redis) -> None:
    """Every process counts into the same numbers, and a restart keeps them."""
    await ToolCounts(redis).add([("hit", "get_order"), ("hit", "get_order"), ("missed", "get_order")])
    await ToolCounts(redis).add([("hit", "get_order")], tokens_saved=40)
    totals = await ToolCounts(redis).totals()
    assert totals == {("hit", "get_order"): 3, ("missed", "get_order"): 1, ("tokens_saved", ""): 40}


async def test_names_of_tools_are_bounded(redis: Redis) -> None:
    """Names come from clients; they can't fill the store."""
    await ToolCounts(redis).add([("hit", f"tool_{number}") for number in range(tool_counts.MAX_TOOLS)])
    await ToolCounts(redis).add([("hit", "one_more"), ("hit", "x" * 5_000)])
    totals = await ToolCounts(redis).totals()
    assert totals["hit", "(other tools)"] == 2
    assert max(len(tool) for _, tool in totals) <= tool_counts.MAX_NAME
