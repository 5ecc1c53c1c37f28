"""The table of docs/frameworks/README.md, and what its pages say that they were checked with.

    python -m tests.docs.frameworks

writes both, from the pages and from tests/compat/frameworks.toml; a test says when that is due.
"""

import re

from tests.fakes.frameworks import FOLDER, Page, checked, pages

INDEX = FOLDER / "README.md"

_TABLE = re.compile(r"(<!-- table: .*? -->\n).*?(<!-- /table -->)", re.DOTALL)
_ROW = re.compile(r"^\| (set|speaks|sends|checked with) \| (.*) \|$", re.MULTILINE)


def facts(page: Page) -> dict[str, str]:
    """The table at the head of a page."""
    return dict(_ROW.findall(page.text))


def written_page(page: Page) -> str:
    """The page with what it was checked with."""
    date, rows = checked()
    said = f"{rows[page.name].version}, {date}" if page.name in rows else "not checked"
    return re.sub(r"^(\| checked with \|).*$", rf"\1 {said} |", page.text, flags=re.MULTILINE)


def written_index(text: str) -> str:
    """The index with one row for each page."""
    lines = ["| | set | it speaks | checked with |", "|---|---|---|---|"]
    for page in pages():
        title, about = page.text.partition("\n")[0].removeprefix("# "), facts(page)
        lines.append(f"| [{title}]({page.name}.md) | {about['set']} | {about['speaks']} | {about['checked with']} |")
    return _TABLE.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text)


def main() -> None:
    """Write them."""
    for page in pages():
        (FOLDER / f"{page.name}.md").write_text(written_page(page), "utf-8")
    INDEX.write_text(written_index(INDEX.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
