"""What a caller may decide for one request."""

import pytest

from memproxy.errors import BadIdentityError
from memproxy.proxy.controls import chosen
from memproxy.records import MemoryMode, ToolCacheMode, ToolsMode


def test_without_a_header_the_operator_decides() -> None:
    """Agents that know nothing of memproxy send none."""
    assert chosen({}, "memory", MemoryMode.READ) is MemoryMode.READ
    assert chosen({"x-memproxy-memory": "off"}, "tools", ToolsMode.ON) is ToolsMode.ON


@pytest.mark.parametrize("written", ["observe", "Observe", " OBSERVE\t"])
def test_a_header_decides_for_its_request(written: str) -> None:
    """However it is written."""
    headers = {"x-memproxy-tool-cache": written, "x-memproxy-memory": "off"}
    assert chosen(headers, "tool-cache", ToolCacheMode.ANSWER) is ToolCacheMode.OBSERVE
    assert chosen(headers, "memory", MemoryMode.FULL) is MemoryMode.OFF


@pytest.mark.parametrize("written", ["", "yes", "true", "off,on", "ToolCacheMode.OFF", "0"])
def test_what_is_no_mode_is_refused_with_those_that_are(written: str) -> None:
    """A mistyped wish for privacy must not be taken for consent."""
    with pytest.raises(BadIdentityError) as refused:
        chosen({"x-memproxy-tool-cache": written}, "tool-cache", ToolCacheMode.ANSWER)
    assert str(refused.value) == "The header X-Memproxy-Tool-Cache takes one of: off, observe, answer."
    assert refused.value.status == 400
