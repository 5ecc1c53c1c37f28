"""Who may import what: the folder names are the architecture, and this keeps them true."""

import ast
import sys
import tomllib
from collections.abc import Mapping

import pytest

from tests.rules.source import ROOT, Module, id_of, modules

HEIGHTS: Mapping[str, int] = {
    name: height
    for height, names in enumerate(
        (
            ("records",),
            ("errors",),
            ("settings", "identity", "words", "tokens", "loose_json", "telemetry", "tasks", "clock", "sockets", "wire"),
            ("storage", "llm", "embedding", "remote_vectors"),
            ("memory",),
            ("extraction",),
            ("model_clients", "learning"),
            ("services", "proxy"),
            ("memory_api",),
            ("app", "worker", "tools_report", "doctor", "queue_commands", "import_conversations", "extract_session"),
            ("learning_process",),
            ("server", "mcp_command"),
            ("demo",),
            ("cli",),
            ("__main__",),
        )
    )
    for name in names
}
"""The layers, lowest first. What stands in one line never imports each other: `app` and `server` wire it together."""

DOORS: Mapping[str, tuple[str, ...]] = {
    "aiohttp": ("proxy.upstream",),
    "anyio": ("proxy",),
    "click": ("cli",),
    "httpx": ("proxy.upstream",),
    "httpx_aiohttp": ("proxy.upstream",),
    "litestar": ("app", "memory_api"),
    "mcp": ("memory_api",),
    "msgspec": ("app", "demo", "extraction", "memory", "memory_api", "proxy", "records", "storage", "wire"),
    "numpy": ("embedding", "memory.compaction", "storage"),
    "openai": ("llm", "remote_vectors", "demo.play", "demo.lookups"),
    "opentelemetry": ("telemetry.otel",),
    "prometheus_client": ("telemetry",),
    "pydantic": ("settings", "memory_api"),
    "pydantic_settings": ("settings",),
    "redis": ("storage",),
    "hiredis": ("storage.pipelined",),
    "redisvl": ("storage",),
    "regex": ("words",),
    "rich": ("cli", "doctor", "demo.play", "extract_session", "import_conversations", "queue_commands", "tools_report"),
    "rich_click": ("cli",),
    "Stemmer": ("words",),
    "tiktoken": ("tokens",),
    "uvicorn": ("server", "demo.scripted_model"),
    "uvloop": ("learning_process", "server", "demo.scripted_model"),
    "wordllama": ("embedding",),
    "zstandard": ("demo.script", "proxy.unpack"),
    "yarl": ("proxy.upstream",),
}
"""Each dependency, and the modules or packages that may know it. Replacing one then changes one place."""

EXTRAS: Mapping[str, tuple[str, str]] = {"opentelemetry": ("otel", "opentelemetry-sdk")}
"""Dependencies that not everybody has: the extra that brings each, and by which distribution."""

OPEN_TO_ALL = frozenset({"typing_extensions"})
"""The language of later Pythons."""

DISTRIBUTIONS: Mapping[str, str] = {"Stemmer": "pystemmer"}
"""Where a package is called otherwise than what it is installed as."""

UNDER_THEIR_NAME = frozenset({"httptools", "uvloop", "websockets"})
"""Dependencies that others load by name: redis-py its parser, uvicorn its HTTP and WebSocket parsers and its loop."""

SETTINGS_READERS = (
    "learning",
    "model_clients",
    "app",
    "cli",
    "doctor",
    "demo.play",
    "extract_session",
    "import_conversations",
    "learning_process",
    "mcp_command",
    "queue_commands",
    "server",
    "services",
    "tools_report",
)
"""Modules that may know `Settings`. Lower ones are given the values that they need."""

SERVICES_SETTINGS_READERS = ("app", "learning_process", "server", "services", "worker.process")
"""Modules that may read `services.settings`, to hand values on."""


def is_below(name: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or lies in one of these packages."""
    return any(name == place or name.startswith(place + ".") for place in places)


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_imports_point_downwards(module: Module) -> None:
    """A reader can take the layers one by one, and a lower one can be tested without the upper ones."""
    for there in {name.partition(".")[0] for name in module.names_of_own()}:
        assert module.part in HEIGHTS, f"{module.part} has no place among the layers: give it one in HEIGHTS"
        assert there in HEIGHTS, f"{module.file} imports {there}, which has no place among the layers"
        assert there == module.part or HEIGHTS[there] < HEIGHTS[module.part], f"{module.file} imports {there}"


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_each_dependency_has_one_door(module: Module) -> None:
    """Nobody else sees a dependency's types and exceptions, so that it can be replaced."""
    imported = {name.partition(".")[0] for name in module.imports()}
    for package in imported - sys.stdlib_module_names - OPEN_TO_ALL - {"memproxy"}:
        assert package in DOORS, f"{module.file} imports {package}, which has no door: give it one in DOORS"
        assert is_below(module.name, DOORS[package]), f"{module.file} imports {package}"


def test_every_door_is_used() -> None:
    """The table tells what is, not what was."""
    for package, places in DOORS.items():
        for place in places:
            users = [module for module in modules() if is_below(module.name, (place,))]
            imported = {name.partition(".")[0] for module in users for name in module.imports()}
            assert package in imported, f"memproxy.{place} has a door to {package} and does not use it"


def test_dependencies_are_declared() -> None:
    """What is imported is asked for by name: it must not vanish when somebody else's dependency does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {_distribution(requirement) for requirement in project["dependencies"]}
    packages = {*DOORS, *OPEN_TO_ALL} - EXTRAS.keys()
    needed = {DISTRIBUTIONS.get(package, package).lower().replace("_", "-") for package in packages}
    assert declared - UNDER_THEIR_NAME == needed - UNDER_THEIR_NAME
    for extra, distribution in EXTRAS.values():
        assert distribution in map(_distribution, project["optional-dependencies"][extra])


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_a_door_to_an_extra_is_not_imported(module: Module) -> None:
    """memproxy starts without the extra: what needs it is loaded by its name when it is asked for."""
    doors = tuple(door for package in EXTRAS for door in DOORS[package])
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}".removeprefix("memproxy.") for alias in node.names]
            assert not any(is_below(name, doors) for name in names), f"{module.file}:{node.lineno}"


def _distribution(requirement: str) -> str:
    name = requirement
    for end in "<>=!~;[ ":
        name = name.partition(end)[0]
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_only_the_top_knows_the_settings(module: Module) -> None:
    """A part that takes values instead of `Settings` can be built by anybody, and shows what it depends on."""
    names = set(module.names_of_own())
    if "settings.Settings" in names or "settings" in names:
        assert module.name in SETTINGS_READERS, f"{module.file} knows Settings"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "settings":
            assert module.name in SERVICES_SETTINGS_READERS, f"{module.file}:{node.lineno} reads services.settings"


@pytest.mark.parametrize("module", [each for each in modules() if each.part == "demo"], ids=id_of)
def test_the_scripted_model_is_no_part_of_the_proxy(module: Module) -> None:
    """It stands for somebody else's server, so it shares nothing with memproxy but how events and sockets are made."""
    if module.name == "demo.play":
        return
    for name in module.names_of_own():
        assert name.startswith(("demo.", "sockets.", "wire.sse")), f"{module.file} imports memproxy.{name}"


@pytest.mark.parametrize("module", modules(), ids=id_of)
def test_nothing_is_imported_inside_a_function(module: Module) -> None:
    """What a module needs stands at its top; a cycle is solved, not hidden."""
    inner = [
        f"{module.file}:{node.lineno}"
        for function in module.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not inner
