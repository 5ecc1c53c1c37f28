"""Settings: one name everywhere, a clear order of precedence, and a refusal that says what is wrong and where."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from memproxy.errors import SettingsError
from memproxy.records import MemoryMode
from memproxy.settings import PREFIX, Settings, Tenancy, read_settings, settings_without_environment, unknown_variables


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment sets must not decide here."""
    for name in [*Settings.model_fields, "config"]:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test writes its settings."""
    return tmp_path / "my.toml"


def test_without_anything_given_the_defaults_hold() -> None:
    """memproxy starts with no configuration at all."""
    settings = read_settings({})
    assert (settings.listen_host, settings.listen_port) == ("127.0.0.1", 8080)
    assert settings.memory is MemoryMode.FULL
    assert settings == Settings.model_validate({})


def test_an_option_wins_over_the_environment_and_that_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment's file can be overridden for one machine, and for one run."""
    file.write_text("listen_port = 1111\nworkers = 2\nlisten_host = 'a'\n")
    monkeypatch.setenv("MEMPROXY_LISTEN_PORT", "2222")
    monkeypatch.setenv("MEMPROXY_WORKERS", "3")
    settings = read_settings({"config": str(file), "listen_port": 3333})
    assert (settings.listen_port, settings.workers, settings.listen_host) == (3333, 3, "a")


def test_the_file_can_be_named_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container is configured without changing its command."""
    file.write_text("workers = 2\n")
    monkeypatch.setenv("MEMPROXY_CONFIG", str(file))
    assert read_settings({}).workers == 2


def test_options_that_were_not_given_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line hands on all its options, given or not."""
    monkeypatch.setenv("MEMPROXY_WORKERS", "3")
    assert read_settings({"workers": None, "config": None}).workers == 3


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and charts set variables to nothing where somebody left a value out."""
    monkeypatch.setenv("MEMPROXY_WORKERS", "")
    assert read_settings({}).workers == 1


def test_an_unknown_name_in_the_file_is_refused_with_the_nearest_one(file: Path) -> None:
    """A typing error is told at once, not discovered weeks later."""
    file.write_text("lisen_port = 1\n")
    with pytest.raises(
        SettingsError, match=r"my\.toml has an unknown setting: lisen_port\. Did you mean listen_port\?"
    ):
        read_settings({"config": str(file)})


def test_unknown_variables_are_named() -> None:
    """They may be another version's, so they are told, not refused."""
    environment = {"MEMPROXY_WORKERS": "1", "MEMPROXY_CONFIG": "x", "MEMPROXY_WORKER": "1", "HOME": "/"}
    assert unknown_variables(environment) == ["MEMPROXY_WORKER"]


@pytest.mark.parametrize("text", ["workers = ", "[", "a\x00"])
def test_a_file_that_is_no_toml_is_told_by_its_name(text: str, file: Path) -> None:
    """Who starts memproxy sees which file is meant."""
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"my\.toml is not valid TOML"):
        read_settings({"config": str(file)})


def test_a_file_that_is_not_there_is_told_by_its_name(file: Path) -> None:
    """A mistyped path must not mean "defaults"."""
    with pytest.raises(SettingsError, match=r"my\.toml can't be read: No such file"):
        read_settings({"config": str(file)})


def test_a_wrong_value_is_told_with_where_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sources may set the same name; the message names the one to mend."""
    file.write_text("workers = 0\n")
    monkeypatch.setenv("MEMPROXY_RECALL_TOKENS", "many")
    with pytest.raises(SettingsError) as caught:
        read_settings({"config": str(file), "listen_port": 70_000})
    message = str(caught.value)
    assert "workers (from the settings file)" in message
    assert "recall_tokens (from MEMPROXY_RECALL_TOKENS)" in message
    assert "listen_port (from the option --listen-port)" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upstream_base_url", "api.example.com/v1"),
        ("extraction_base_url", "ftp://example.com"),
        ("redis_url", "localhost:6379"),
        ("log_level", "verbose"),
        ("memory", "some"),
        ("tenancy", "none"),
        ("history_keep_share", 1),
        ("max_body_mb", 0),
    ],
)
def test_values_that_cannot_work_are_refused_at_start(name: str, value: object) -> None:
    """Not at the first request."""
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


def test_a_slash_at_the_end_of_a_base_url_does_not_matter() -> None:
    """Paths are put behind it."""
    assert read_settings({"upstream_base_url": "http://host/v1/"}).upstream_base_url == "http://host/v1"


def test_settings_never_change() -> None:
    """What was told at start is what holds."""
    with pytest.raises(ValidationError):
        read_settings({}).workers = 2


def test_keys_are_not_shown() -> None:
    """Settings end up in logs and in tracebacks."""
    settings = read_settings({"upstream_api_key": "sk-very-secret", "extraction_api_key": "sk-very-secret"})
    assert settings.upstream_api_key == SecretStr("sk-very-secret")
    assert "very-secret" not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("tenancy", "host", "apart"),
    [
        (Tenancy.AUTO, "127.0.0.1", False),
        (Tenancy.AUTO, "::1", False),
        (Tenancy.AUTO, "0.0.0.0", True),  # a made-up deployment
        (Tenancy.SINGLE, "0.0.0.0", False),
        (Tenancy.KEY, "127.0.0.1", True),
    ],
)
def test_only_the_own_machine_is_one_tenant_by_default(tenancy: Tenancy, host: str, *, apart: bool) -> None:
    """Who opens the port to others must not share a memory with them by accident."""
    assert read_settings({"tenancy": tenancy, "listen_host": host}).tells_tenants_apart is apart


@pytest.mark.parametrize(
    ("given", "extracts"),
    [
        ({}, False),
        ({"extraction_model": "m"}, False),
        ({"extraction_model": "m", "upstream_api_key": "k"}, True),
        ({"extraction_model": "m", "extraction_api_key": "k"}, True),
        ({"extraction_model": "m", "extraction_base_url": "http://host/v1"}, True),
        ({"upstream_api_key": "k"}, False),
    ],
)
def test_a_model_is_asked_only_where_one_is_named_and_may_be_asked(given: dict[str, str], *, extracts: bool) -> None:
    """Clients' own keys are never spent on learning."""
    assert read_settings(given).extracts is extracts


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 0.2),
        ({"redis_url": "redis://far.example.com:6379"}, 0.3),
        ({"redis_url": "redis://far.example.com:6379", "recall_deadline_s": 1.5}, 1.5),
        ({"recall_deadline_s": 0.01}, 0.01),
    ],
)
def test_a_store_that_is_further_away_may_take_longer(given: dict[str, object], seconds: float) -> None:
    """The default fits both the embedded store and a Redis across the network."""
    assert read_settings(given).recall_deadline == seconds


@pytest.mark.parametrize(
    ("url", "login", "store_url"),
    [
        ("", {"redis_password": "x"}, ""),
        ("redis://h:1/0", {}, "redis://h:1/0"),
        ("redis://u:p@h:1/0", {}, "redis://u:p@h:1/0"),
        ("redis://h:1/0", {"redis_password": "p@s:s/%"}, "redis://:p%40s%3As%2F%25@h:1/0"),
        ("rediss+cluster://a,b", {"redis_username": "u", "redis_password": "p"}, "rediss+cluster://u:p@a,b"),
        ("redis+sentinel://a:1,b/s", {"redis_username": "u"}, "redis+sentinel://u:@a:1,b/s"),
        ("unix:///run/s.sock?db=1", {"redis_password": "p"}, "unix://:p@/run/s.sock?db=1"),
    ],
)
def test_the_store_is_asked_with_a_login_of_its_own(url: str, login: dict[str, str], store_url: str) -> None:
    """A secret holds a password as it is; nobody has to build an address around it."""
    assert Settings.model_validate({"redis_url": url, **login}).store_url == store_url


@pytest.mark.parametrize("login", [{"redis_username": "u"}, {"redis_password": "secret"}])
def test_a_login_is_given_in_one_place(login: dict[str, str]) -> None:
    """Which one counts must not be a riddle; and the answer shows neither."""
    with pytest.raises(SettingsError, match="one place") as told:
        read_settings({"redis_url": "redis://u:other@h", **login})
    assert "secret" not in str(told.value)
    assert "other" not in str(told.value)


def test_windows_come_with_the_package() -> None:
    """An unknown window means a cut too early or a refusal by the provider."""
    windows = read_settings({}).windows()
    assert windows["gpt-4o"] == 128_000
    assert windows["claude"] > 100_000


def test_windows_can_be_replaced(file: Path) -> None:
    """New models come faster than releases."""
    file.write_text('[windows]\n"My-Model" = 5000\n')
    assert read_settings({"models_file": file}).windows() == {"my-model": 5_000}


@pytest.mark.parametrize("text", ["", "windows = 1", '[windows]\n"a" = "many"', '[windows]\n"a" = 0'])
def test_a_models_file_of_another_form_is_refused(text: str, file: Path) -> None:
    """It is read at start, so a mistake is told there."""
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"needs a table \[windows\]"):
        read_settings({"models_file": file}).windows()


@pytest.mark.parametrize(("name", "hours"), [("UTC", 0), ("utc", 0), ("Asia/Tokyo", 9)])
def test_the_users_time_zone_is_known(name: str, hours: int) -> None:
    """ "Yesterday" is counted from where the user is."""
    zone = settings_without_environment({"timezone": name}).zone
    assert datetime(2025, 1, 1, tzinfo=zone).utcoffset() == timedelta(hours=hours)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe/Atlantis", "../etc/passwd", "UTC+1"])
def test_a_time_zone_that_is_none_is_refused(name: str) -> None:
    """At the start, not when the first date is wrong."""
    with pytest.raises(ValueError, match="time zone"):
        settings_without_environment({"timezone": name})
