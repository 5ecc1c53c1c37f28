"""The pages of docs/frameworks are true: each one's files and commands, as printed, give an agent a memory."""

from pathlib import Path

import pytest

from memproxy.demo.script import ModelRequest
from tests.docs.frameworks import facts
from tests.fakes.frameworks import ASKED, MARK, SAID, Page, Reader, checked, pages, remembers
from tests.fakes.serving import Serve

DATE, CHECKED = checked()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
async def test_what_was_said_once_is_known_the_next_time(serve: Serve, tmp_path: Path, page: Page) -> None:
    """The reader runs the program twice: the second run knows what was said in the first, and prints the answer."""
    if page.name not in CHECKED:
        pytest.skip(f"the page says itself that nobody has tried {page.name}")
    programs = CHECKED[page.name].programs(page.name)
    if programs is None:
        pytest.skip(f"not installed here: {', '.join(CHECKED[page.name].packages)}; see `make frameworks`")
    async with serve(remembers) as served:
        reader = Reader(page, programs=programs, origin=served.origin, folder=tmp_path)
        reader.write()
        tell, ask = page.runs
        told = await reader.run(tell)
        await served.settled()
        answer = await reader.run(ask)
        asked = [request for request in served.model.requests if ASKED in request.last_user_text]
    assert "Noted." in told
    assert "Peanuts, as you told me." in answer
    assert any(SAID in request.last_user_text for request in asked)
    assert all(format_of(request) in facts(page)["speaks"] for request in asked)
    assert {(MARK, "yes") in request.headers for request in asked} == {"README.md#headers" in page.text}


def format_of(request: ModelRequest) -> str:
    """What the pages call the format of a request."""
    return request.path.partition("/v1/")[2].replace("/", " ")
