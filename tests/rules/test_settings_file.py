"""The commented settings file is complete and true, and so is the file of context windows."""

import re
import tomllib
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from memproxy.settings import PREFIX, Settings, read_settings
from tests.rules.source import ROOT

SETTINGS_FILE = ROOT / "config" / "memproxy.toml"
MODELS_FILE = ROOT / "config" / "models.toml"

TEXT = SETTINGS_FILE.read_text("utf-8")
_COMMENTED_OUT = re.compile(r"^# ([a-z_]+) = ", re.MULTILINE)

DEFAULTS: dict[str, Any] = {
    name: field.default
    for name, field in Settings.model_fields.items()
    if field.default is not None and field.default is not PydanticUndefined
}
"""Settings whose default is a value; the others have none, or one that the machine decides."""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment sets must not decide here."""
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def test_every_setting_stands_in_the_file() -> None:
    """An operator who reads the file knows all there is to set."""
    active = set(tomllib.loads(TEXT))
    assert active == DEFAULTS.keys()
    assert set(_COMMENTED_OUT.findall(TEXT)) == Settings.model_fields.keys() - active


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_file_shows_the_default(name: str) -> None:
    """What stands there is what happens without the file."""
    assert tomllib.loads(TEXT)[name] == DEFAULTS[name]


def test_the_file_as_it_is_changes_nothing() -> None:
    """It can be copied and changed line by line."""
    assert read_settings({"config": str(SETTINGS_FILE)}) == read_settings({})


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    """A value alone does not tell what it does, nor what becomes of it when it is changed."""
    before = re.split(rf"^(?:# )?{name} = ", TEXT, flags=re.MULTILINE)[0].rstrip("\n")
    comment = before.rpartition("\n\n")[2]
    assert comment.startswith("# ")
    assert len(comment.split()) >= 6, f"{name} is hardly explained"


def test_the_file_stands_in_the_order_of_the_settings() -> None:
    """Who looks from one to the other finds the place."""
    assert re.findall(r"^(?:# )?([a-z_]+) = ", TEXT, re.MULTILINE) == list(Settings.model_fields)


def test_the_models_file_is_valid() -> None:
    """A typing error in it would stop memproxy from starting."""
    windows = read_settings({"models_file": MODELS_FILE}).windows()
    assert windows == read_settings({}).windows()
    assert all(name == name.lower() and window >= 4_096 for name, window in windows.items())
