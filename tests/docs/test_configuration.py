"""docs/configuration.md tells every setting, as it is."""

import pytest

from memproxy.settings import Settings
from tests.docs.configuration import PAGE, WHO_NEEDS_IT, default, kind, options, page, sections
from tests.docs.markdown import anchors


def test_the_page_is_the_one_that_is_made() -> None:
    """Whoever adds a setting runs `make docs`, and readers find it."""
    assert PAGE.read_text("utf-8") == page()


def test_each_setting_has_a_heading_to_link_to() -> None:
    """None is forgotten, and each can be pointed at."""
    assert Settings.model_fields.keys() <= anchors(page())
    assert [each.name for _, settings in sections() for each in settings] == list(Settings.model_fields)


def test_each_section_says_who_needs_it() -> None:
    """There are many settings; most readers need none of most sections."""
    assert {title for title, _ in sections()} == WHO_NEEDS_IT.keys()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("listen_port", "whole number, at least 0, at most 65,535"),
        ("history_keep_share", "number, above 0, below 1"),
        ("responses_websocket", "`true` | `false`"),
        ("tenancy", "`auto` | `single` | `key`"),
        ("log_level", "`debug` | `info` | `warning` | `error`"),
        ("upstream_api_key", "secret text"),
        ("tools_file", "path"),
    ],
)
def test_what_may_be_given_is_told_with_its_limits(name: str, words: str) -> None:
    """Nobody has to try."""
    assert kind(name) == words


@pytest.mark.parametrize(
    ("name", "example", "words"),
    [
        ("listen_port", "8080", "`8080`"),
        ("redis_url", '""', "empty"),
        ("upstream_api_key", '""', "none"),
        ("data_dir", '"/var/lib/memproxy"', "depends on the machine"),
    ],
)
def test_defaults_are_told(name: str, example: str, words: str) -> None:
    """Also where there is none, or the machine decides."""
    assert default(name, example) == words


def test_options_are_those_of_the_command() -> None:
    """Their names differ from the settings' now and then."""
    assert options()["upstream_base_url"] == "--upstream"
    assert options()["listen_port"] == "--port"
