"""The pages of docs/frameworks as a reader follows them, and the model that the programs on them talk to."""

import asyncio
import os
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from memproxy.demo.script import ModelRequest, Reply, ToolCallReply, text_of
from tests.rules.source import ROOT

FOLDER = ROOT / "docs" / "frameworks"
CHECKED = ROOT / "tests" / "compat" / "frameworks.toml"

ORIGIN = "http://127.0.0.1:8080"
"""Where memproxy is on every page."""

SAID = "I am allergic to peanuts."
ASKED = "What am I allergic to?"

MARK = "x-from-the-environment"
"""A header that no client has of itself."""

PATIENCE_S = 150
"""For one program to begin, ask and end; the largest of them take a dozen seconds to import."""

_FILE = re.compile(r"^`([\w./~-]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INSTALL = re.compile(r"(?:pip|npm) install ")
_EXTRA = re.compile(r"\[.*\]")

_FOREIGN = ("OPENAI_", "ANTHROPIC_", "MEMPROXY_", "CLAUDE", "CODEX_", "LITELLM_", "COV_", "PYTHON")
"""What this machine has set for the programs, by the beginnings of its names."""

QUIET = {
    "AGNO_TELEMETRY": "false",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MASTRA_TELEMETRY_DISABLED": "1",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}
"""A test tells nobody about itself."""

NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
"""What a program asks beside memproxy is refused at once, and not looked for."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its files and its commands, as printed."""

    name: str
    text: str

    @property
    def files(self) -> dict[str, str]:
        """Each block with the name that stands in the line above it."""
        return dict(_FILE.findall(self.text))

    @property
    def commands(self) -> list[str]:
        """The lines of its shell blocks; continued ones are one."""
        blocks = "".join(_SHELL.findall(self.text)).replace("\\\n", "")
        return [line for line in blocks.splitlines() if line.strip()]

    @property
    def runs(self) -> list[str]:
        """The lines that ask the agent something."""
        return [line for line in self.commands if SAID in line or ASKED in line]

    @property
    def setup(self) -> list[str]:
        """The lines that prepare the shell for them; installing is done."""
        return [line for line in self.commands if line not in self.runs and not _INSTALL.match(line)]

    @property
    def installed(self) -> list[str]:
        """What its reader is told to install."""
        lines = [line for line in self.commands if _INSTALL.match(line)]
        return [word.strip("'") for line in lines for word in line.split()[2:] if not word.startswith("-")]

    @property
    def program(self) -> str:
        """What it runs."""
        return "\n".join(self.files.values())


@dataclass(frozen=True, slots=True)
class Checked:
    """With which packages a page was tried: exact versions, the framework's own first."""

    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()

    @property
    def packages(self) -> dict[str, str]:
        """Versions by the packages' names, in order."""
        pairs = [each.partition("==") for each in self.pip] + [each.rpartition("@") for each in self.npm]
        return {name: version for name, _, version in pairs}

    @property
    def version(self) -> str:
        """The framework with its version, as its page says it."""
        name, version = next(iter(self.packages.items()))
        return f"{_EXTRA.sub('', name)} {version}"

    def folder(self, name: str) -> Path:
        """The environment of a page."""
        return environments() / name

    def programs(self, name: str) -> Path | None:
        """Where the programs are with which a page can be followed; None where the packages are not installed."""
        here = self.folder(name)
        if self.npm:
            found = here / "node_modules" / ".bin"
            return found if (here / "node_modules").exists() and shutil.which("node") else None
        if (here / "bin" / "python").exists():
            return here / "bin"
        return Path(sys.executable).parent if all(map(_is_importable, self.packages)) else None


def _is_importable(package: str) -> bool:
    """Whether the tests' own environment has it."""
    try:
        distribution(_EXTRA.sub("", package))
    except PackageNotFoundError:
        return False
    return True


def environments() -> Path:
    """The folder of environments that `make frameworks` fills, or the one that FRAMEWORKS_PATH names."""
    return Path(os.environ.get("FRAMEWORKS_PATH") or ROOT / ".frameworks")


def pages() -> list[Page]:
    """All pages in order, without the table of them."""
    return [Page(path.stem, path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"]


def checked() -> tuple[str, dict[str, Checked]]:
    """On which day the pages were tried, and with what each was."""
    table = tomllib.loads(CHECKED.read_text("utf-8"))
    rows = {name: Checked(**{kind: tuple(names) for kind, names in row.items()}) for name, row in table["page"].items()}
    return str(table["date"]), rows


class Reader:
    """Somebody who copies a page into a folder, with memproxy at `origin`, and runs its commands."""

    def __init__(self, page: Page, *, programs: Path, origin: str, folder: Path) -> None:
        self.page = page
        self.programs = programs
        self.origin = origin
        self.folder = folder
        self.home = folder / "home"

    def write(self) -> None:
        """Copy the page's files, with the address that memproxy really has."""
        self.home.mkdir()
        if self.programs.name == ".bin":
            (self.folder / "node_modules").symlink_to(self.programs.parent)
        for name, text in self.page.files.items():
            path = self.home / name[2:] if name.startswith("~/") else self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(ORIGIN, self.origin), "utf-8")

    async def run(self, line: str) -> str:
        """All that a line prints, in a shell that the page has prepared; what it says of failing comes last."""
        script = "\n".join([*self.page.setup, line]).replace(ORIGIN, self.origin)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", script),
            cwd=self.folder,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
                await process.communicate()
        failed = f"\n{errors.decode()}\nended with {process.returncode}" if process.returncode else ""
        return output.decode() + failed

    def environment(self) -> dict[str, str]:
        """A machine that has nothing set but keys."""
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOREIGN)}
        keys = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-test"}
        headers = {"OPENAI_CUSTOM_HEADERS": f"{MARK}: yes"}
        path = f"{self.programs}:{kept['PATH']}"
        return {**kept, **QUIET, **NOWHERE, **keys, **headers, "PATH": path, "HOME": str(self.home)}


def remembers(request: ModelRequest) -> Reply:
    """Knows of the peanuts only if an earlier conversation is told, and answers in the form that each agent reads."""
    seen = "\n".join(text_of(message) for message in request.messages)
    asked = request.last_user_text.rpartition("</memproxy-memory>")[2]
    if ASKED in asked:
        return _in_form("Peanuts, as you told me." if SAID in _recalled(seen) else "I don't know.", seen, request)
    return _in_form("Noted.", seen, request)


def _recalled(seen: str) -> str:
    """What stands in memproxy's blocks."""
    return "\n".join(re.findall(r"<memproxy-memory.*?</memproxy-memory>", seen, re.DOTALL))


def _in_form(words: str, seen: str, request: ModelRequest) -> Reply:
    for tool in request.body.get("tools") or ():
        function = tool.get("function", tool)
        if function.get("name") in {"final_answer", "Response"}:  # the call that is the answer
            (argument,) = function["parameters"]["required"]
            return Reply(tool_calls=(ToolCallReply(function["name"], {argument: words}),))
    if "[[ ## answer ## ]]" in seen:
        return Reply(f"[[ ## answer ## ]]\n{words}\n\n[[ ## completed ## ]]")
    if "Final Answer:" in seen:
        return Reply(f"Thought: I now can give a great answer\nFinal Answer: {words}")
    return Reply(words)
