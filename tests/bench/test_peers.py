"""Other proxies are set up to relay what memproxy relays, and left out where they are not installed."""

from pathlib import Path

import pytest

from bench.measure import measure
from bench.peers import missing
from bench.scenarios import QUICK_USERS, SCENARIOS, TARGETS, Host, Plan, quick
from bench.servers import running


@pytest.mark.timeout(120)
@pytest.mark.parametrize("host", [Host.NGINX, Host.LITELLM])
async def test_a_peer_relays_json_and_streams(host: Host) -> None:
    """A peer that answers with errors, or with something else, would look fast."""
    if hint := missing(host):
        pytest.skip(hint)
    target = next(target for target in TARGETS if target.host is host)
    scenarios = [quick(each) for each in SCENARIOS if each.name in {"1kb-c1", "60kb-c16", "stream-c16"}]
    async with running(Plan(scenarios, [target], rounds=1, users=QUICK_USERS, settings={})) as bench:
        for scenario in scenarios:
            measured = await measure(bench, scenario, target, number=0)
            assert measured.requests > 0
            assert measured.cpu_ms > 0
            assert measured.recorded is None


def test_what_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The table has a row less, and whoever misses it knows what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bench.peers.LITELLM", tmp_path / "litellm")
    assert "nginx-light" in str(missing(Host.NGINX))
    assert "make bench-peers" in str(missing(Host.LITELLM))
    assert missing(Host.MEMPROXY) is None
