"""Sizes, names and state: a module can be read in one sitting, and importing one does nothing."""

import ast
from collections.abc import Iterator

import pytest

from tests.rules.source import PACKAGE, Function, Module, id_of, modules

FUNCTION_LINES = 45
"""Of a function without its docstring."""

FILE_LINES = 400

KINDS = frozenset({"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"})
"""Names that say what kind of thing a module is, not what it does; everything can end up in there."""

CONTAINERS = (ast.Dict, ast.DictComp, ast.List, ast.ListComp, ast.Set, ast.SetComp)

MUTATORS = frozenset(
    {
        "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft", "insert",
        "intersection_update", "pop", "popitem", "popleft", "remove", "reverse", "setdefault", "sort", "update",
    }
)  # fmt: skip

UNCHANGING = frozenset(
    {
        # of the standard library
        "ContextVar", "MappingProxyType", "TypeVar", "bytes", "chr", "datetime", "frozenset", "json.JSONDecoder",
        "logging.getLogger", "range", "re.compile", "struct.Struct", "timedelta", "tuple", "type",
        # of dependencies
        "AfterValidator", "Field", "WithJsonSchema", "click.Choice", "click.Path", "click.argument", "click.option",
        "msgspec.json.Decoder", "msgspec.json.Encoder", "regex.compile",
        # our own, all frozen, or pure functions
        "Answer", "ChatCompletions", "Filter", "Floor", "Line", "McpTool", "Messages", "Responses", "Scene", "Strategy",
        "_Bench", "Rules", "StrategyChoice", "encode_event", "schema.partitions",
    }
)  # fmt: skip
"""What may be called while a module is imported: it gives something that nobody can change, and touches nothing."""

TEXT_METHODS = frozenset({"decode", "join", "replace", "split"})
"""Methods of strings and bytes that may be called, too."""


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_a_file_is_read_in_one_sitting(module: Module) -> None:
    """A file that grew beyond this is two."""
    assert len(module.text.splitlines()) <= FILE_LINES


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_a_function_is_seen_at_once(module: Module) -> None:
    """What does not fit on a screen has a part that deserves a name."""
    long = {
        f"{module.file}:{function.lineno} {function.name}": lines
        for function in module.functions
        if (lines := _lines(function)) > FUNCTION_LINES
    }
    assert not long


def _lines(function: Function) -> int:
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        total -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return total


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_a_module_is_named_for_what_it_does(module: Module) -> None:
    """A name that fits everything tells nothing."""
    assert not KINDS & set(module.path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("module", [each for each in modules() if each.path.name == "__init__.py"], ids=id_of)
def test_packages_have_no_code_of_their_own(module: Module) -> None:
    """Each name has one home, and importing a package runs nothing."""
    assert module.text == ""


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_there_is_no_global_state(module: Module) -> None:
    """Two instances in one process, as in the tests, know nothing of each other.

    Constants may be lists or dicts, as long as nothing in their module changes them; types keep others from it.
    """
    constants = {name for name, value in _constants(module) if isinstance(value, CONTAINERS)}
    for node in ast.walk(module.tree):
        match node:
            case ast.Global():
                pytest.fail(f"{module.file}:{node.lineno} has a global statement")
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()) if name in constants:
                pytest.fail(f"{module.file}:{node.lineno} changes the constant {name}")
            case ast.AugAssign(target=ast.Name(id=name)) if name in constants:
                pytest.fail(f"{module.file}:{node.lineno} changes the constant {name}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if name in constants:
                assert attr not in MUTATORS, f"{module.file}:{node.lineno} changes the constant {name}"


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_importing_does_nothing(module: Module) -> None:
    """No connection, no file, no environment is touched before somebody asks for it."""
    if module.name == "__main__":
        return
    for statement in module.tree.body:
        assert _does_nothing(statement), f"{module.file}:{statement.lineno}"
    for name, value in _constants(module):
        for called in _called_at_once(value):
            assert called in UNCHANGING, f"{module.file}: {name} calls {called}"


def _does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=value):
            return isinstance(value, ast.Constant)  # a docstring
        case ast.If(test=test):
            return ast.unparse(test) in {"TYPE_CHECKING", "__name__ == '__main__'"}
        case _:
            return isinstance(
                statement, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.ClassDef | Function
            )


def _constants(module: Module) -> Iterator[tuple[str, ast.expr]]:
    for statement in module.tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                yield name, value
            case ast.Assign(targets=[ast.Tuple()], value=value):
                yield "several", value
            case _:
                pass


def _called_at_once(value: ast.expr) -> Iterator[str]:
    """What is called when this expression is evaluated; bodies of lambdas are not."""
    if isinstance(value, ast.Lambda):
        return
    if isinstance(value, ast.Call):
        match value.func:
            case ast.Attribute(attr=attr) if attr in TEXT_METHODS:
                pass
            case called:
                yield ast.unparse(called)
    for child in ast.iter_child_nodes(value):
        if isinstance(child, ast.expr | ast.keyword | ast.comprehension):
            yield from _called_at_once(child)  # type: ignore[arg-type]  # keywords and comprehensions only hold more
