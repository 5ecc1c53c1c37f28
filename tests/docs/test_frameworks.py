"""The pages of docs/frameworks say what they were checked with, and their index says the same."""

import re

import pytest

from tests.docs.frameworks import INDEX, facts, written_index, written_page
from tests.docs.markdown import anchors, blocks
from tests.fakes.frameworks import ASKED, SAID, Page, checked, pages

PROGRAM_LINES = 20

every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


def test_the_index_is_the_one_that_is_made() -> None:
    """Whoever adds a page runs `make docs`, and readers find it."""
    assert INDEX.read_text("utf-8") == written_index(INDEX.read_text("utf-8"))
    assert {"path", "headers", "others"} <= anchors(INDEX.read_text("utf-8"))


@every_page
def test_a_page_says_what_it_was_checked_with(page: Page) -> None:
    """The very versions that `make frameworks` installs."""
    assert page.text == written_page(page)
    assert facts(page).keys() == {"set", "speaks", "sends", "checked with"}


@every_page
def test_a_page_is_tried_as_a_whole(page: Page) -> None:
    """No block and no command on it that the test does not take: all files have a name, all commands a place."""
    assert len(blocks(page.text)) == len(page.files) + 1
    assert [SAID in line for line in page.runs] == [True, False]
    assert all(line.startswith("export ") for line in page.setup)
    versions = re.compile(r"(?<=.)@[^/]*$")
    assert {versions.sub("", word) for word in page.installed} == checked()[1][page.name].packages.keys()


@every_page
def test_a_page_names_what_it_sets(page: Page) -> None:
    """The variable of the table is the one that the commands or the files set, with the address of a user."""
    name = facts(page)["set"].strip("`")
    assert name in "\n".join([*page.setup, page.program])
    assert "http://127.0.0.1:8080/u/alice" in "\n".join([*page.setup, page.program])
    assert ASKED in page.commands[-1]


@every_page
def test_a_program_is_read_at_a_glance(page: Page) -> None:
    """It shows one thing."""
    for text in page.files.values():
        assert len(text.splitlines()) <= PROGRAM_LINES


def test_what_was_checked_has_a_page() -> None:
    """The table of versions names nothing that is gone."""
    assert checked()[1].keys() <= {page.name for page in pages()}
