"""Every module has a test file in its place: who changes one knows where to look, and what is untested is seen."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.rules.source import PACKAGE, ROOT, Module, id_of, modules

TESTS = ROOT / "tests"

WITHOUT_TESTS: Mapping[str, str] = {
    "memproxy/__main__.py": "one call",
    "memproxy/errors.py": "tests/rules/test_errors_mapped.py is about all of them",
    "memproxy/demo/resources.py": "tests/demo/test_scripted_model.py asks for all of them",
    "memproxy/memory_api/api.py": "values without behaviour",
    "memproxy/proxy/forward.py": "tests/proxy/test_pipeline.py forwards everything through it",
    "memproxy/proxy/stages.py": "values without behaviour",
    "memproxy/wire/parts.py": "what two formats have in common; the tests of their rounds are its tests",
    "memproxy/wire/dialect.py": "protocols and values; each dialect is tested",
}
"""Modules that have no test file, and why."""

NOT_MIRRORED = frozenset({"bench", "compat", "deploy", "docs", "examples", "fakes", "rules", "tutorial"})
"""Folders whose tests are about more than one module."""


@pytest.mark.parametrize("module", [each for each in modules() if each.path.name != "__init__.py"], ids=id_of)
def test_each_module_has_its_test_file(module: Module) -> None:
    """`memproxy/a/b.py` is tested by `tests/a/test_b.py`."""
    below = module.path.relative_to(PACKAGE)
    if module.file not in WITHOUT_TESTS:
        assert (TESTS / below.parent / f"test_{below.name}").exists()


@pytest.mark.parametrize("name", WITHOUT_TESTS)
def test_modules_without_tests_exist(name: str) -> None:
    """The list of exceptions names nothing that is gone, and nothing that has tests by now."""
    below = (ROOT / name).relative_to(PACKAGE)
    assert (ROOT / name).exists()
    assert not (TESTS / below.parent / f"test_{below.name}").exists()


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_each_test_file_has_its_module(path: Path) -> None:
    """A module that is renamed takes its tests along."""
    below = path.relative_to(TESTS)
    module = below.with_name(below.name.removeprefix("test_"))
    if below.parts[0] not in NOT_MIRRORED:
        assert (PACKAGE / module).exists()
