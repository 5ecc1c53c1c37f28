"""How memories are made, as the settings say."""

import pytest

from memproxy.errors import SettingsError
from memproxy.learning import strategies_of
from memproxy.settings import settings_without_environment


def names(**given: str) -> list[str]:
    return [choice.name for choice in strategies_of(settings_without_environment(given))]


def test_several_ways_may_be_chosen() -> None:
    """Facts and a summary of the same session answer different questions."""
    assert names() == ["discrete"]
    assert names(extraction_strategies=" summary, preferences,") == ["summary", "preferences"]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"extraction_strategies": "discreet"}, "discreet"),
        ({"extraction_strategies": "custom"}, "custom_prompt"),
        ({"extraction_strategies": "custom", "extraction_custom_prompt": "{nonsense}"}, "nonsense"),
    ],
)
def test_what_can_not_be_used_is_refused_at_start(given: dict[str, str], word: str) -> None:
    """Not when the first turn waits for it."""
    with pytest.raises(SettingsError, match=word):
        strategies_of(settings_without_environment(given))
