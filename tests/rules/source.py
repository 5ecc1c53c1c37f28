"""The package's source as the rules look at it: modules, their trees, and what they import."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "memproxy"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One module of the package."""

    path: Path

    @property
    def name(self) -> str:
        """As it stands below the package: `proxy.align`; the package itself is the empty string."""
        return ".".join(part for part in self._parts if part != "__init__")

    @property
    def part(self) -> str:
        """The package or module directly below `memproxy` that it belongs to: `proxy`, `tokens`."""
        return self._parts[0]

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.path.relative_to(PACKAGE).with_suffix("").parts

    @property
    def file(self) -> str:
        """As people say it: `memproxy/proxy/align.py`."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.file)

    @property
    def functions(self) -> Iterator[Function]:
        """All functions and methods, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def imports(self) -> Iterator[str]:
        """Full dotted names of what is imported, wherever that stands: `memproxy.errors.StoreError`, `redis.asyncio`.

        Names that are given to `import_module` count too.
        """
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)
                case ast.ImportFrom(module=module, names=names, level=level):
                    assert level == 0, f"{self.file}: import by full names, not relative ones"
                    yield from (f"{module}.{alias.name}" for alias in names)
                case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                    yield name
                case _:
                    pass

    def names_of_own(self) -> Iterator[str]:
        """What it imports of the package, below `memproxy`: `errors.StoreError`."""
        return (name.removeprefix("memproxy.") for name in self.imports() if name.startswith("memproxy."))


def modules() -> list[Module]:
    """Every module of the package, in order."""
    return [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def id_of(module: object) -> str:
    """What a test about this module is called."""
    return module.file if isinstance(module, Module) else str(module)
