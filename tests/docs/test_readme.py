"""The README's lines work as they are printed: on a machine with Python and this checkout, and a scripted provider."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from memproxy.demo.script import ModelRequest, Reply
from memproxy.demo.scripted_model import ScriptedModel
from memproxy.sockets import listening_socket
from tests.deploy.test_dockerfile import CONTEXT, inherited, require_an_index
from tests.docs.markdown import Block, blocks
from tests.fakes.frameworks import ORIGIN, remembers
from tests.fakes.serving import until
from tests.rules.source import ROOT

TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = [block for block in blocks(TEXT) if block.language in {"sh", "python"}]
(SHOWN,) = (block.text for block in blocks(TEXT) if block.language == "text")

NOT_RUN: Mapping[str, str] = {
    "make run": "installs the environment that this test runs in; test_targets_are_known_to_make looks at it",
    "make test": "runs this test",
}
"""The only lines that are not carried out, by their beginnings, and why."""

PRINTED: Mapping[str, str] = {
    '"I am allergic to peanuts."': "Noted.",
    "client = OpenAI()": "Peanuts, as you told me.",
    "agent_memory_client import": "Alice is allergic to sesame",
    "/memproxy/explain/": "I am allergic to peanuts.",
    "memproxy extract": "1 turns",
}
"""What a block has to print, by words of it. The others only have to end well."""

SERVES = "memproxy serve"
"""The line that does not end."""

PATIENCE_S = 300


def provider(request: ModelRequest) -> Reply:
    """Talks as in the pages of the frameworks, and notes nothing where it is asked to extract."""
    if "response_format" in request.body:
        return Reply(json.dumps({"memories": []}))
    return remembers(request)


class Shell:
    """A shell in which one block after the other is run: exported variables stay, and what serves goes on."""

    def __init__(self, folder: Path, port: int, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.origin = f"http://127.0.0.1:{port}"
        self.environment = dict(environment)
        self.servers: list[asyncio.subprocess.Process] = []

    async def run(self, block: Block) -> str:
        """What a block prints; fails with all it said when it fails."""
        text = block.text.replace(ORIGIN, self.origin)
        if block.language == "python":
            return await self._done("python", "-c", text)
        lines = [line for line in text.splitlines() if not line.startswith(tuple(NOT_RUN))]
        serves = SERVES in lines
        script = "\n".join([*(line for line in lines if line != SERVES), "env -0 > environment"])
        printed = await self._done("bash", "-euo", "pipefail", "-c", script)
        kept = (self.folder / "environment").read_text("utf-8").split("\0")
        self.environment = dict(pair.split("=", 1) for pair in kept if pair)
        if serves:
            self.servers.append(await self._started(*SERVES.split()))
        return printed

    async def _done(self, *command: str) -> str:
        process = await self._started(*command)
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate()
        assert process.returncode == 0, f"{command[-1]}\n{output.decode()}"
        return output.decode()

    async def _started(self, *command: str) -> asyncio.subprocess.Process:
        found = shutil.which(command[0], path=self.environment["PATH"])
        assert found is not None
        return await asyncio.create_subprocess_exec(
            *(found, *command[1:]),
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def stop(self) -> None:
        """End what serves, and wait for it."""
        for server in self.servers:
            server.terminate()
            await server.communicate()


@contextmanager
def machine(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody with an empty virtual environment, in a copy of this checkout in `folder`."""
    for path in CONTEXT:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, place)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    with TemporaryDirectory(prefix="readme-") as data:  # short: sockets have to fit into it
        yield {
            **inherited(home=folder, first_on_path=folder / "venv" / "bin"),
            "OPENAI_API_KEY": "sk-test",
            "MEMPROXY_DATA_DIR": data,
            "MEMPROXY_EXTRACTION_MODEL": "scripted",
            "MEMPROXY_UPSTREAM_API_KEY": "sk-test",
            **{f"MEMPROXY_{name}_DEADLINE_S": "30" for name in ("SESSION", "RECALL", "RECORD")},
        }


@asynccontextmanager
async def shell(folder: Path) -> AsyncIterator[Shell]:
    """A shell on such a machine, with a provider that is a script, and a free port."""
    with machine(folder) as environment:
        async with ScriptedModel(provider).serve() as upstream:
            with listening_socket("127.0.0.1", 0) as free:
                port = free.getsockname()[1]
            own = {"MEMPROXY_LISTEN_PORT": str(port), "MEMPROXY_UPSTREAM_BASE_URL": upstream.base_url}
            opened = Shell(folder, port, environment | own)
            try:
                yield opened
            finally:
                await opened.stop()


@pytest.mark.timeout(900)
async def test_the_readmes_lines_work_as_printed(tmp_path: Path) -> None:
    """The first quarter of an hour with memproxy, as a reader has it."""
    require_an_index(tmp_path)
    printed: dict[str, str] = {}
    async with shell(tmp_path) as reader, httpx.AsyncClient(base_url=reader.origin, timeout=30) as http:
        for block in BLOCKS:
            printed[block.text] = await reader.run(block)
            if SERVES in block.text.splitlines():
                await until(lambda: is_ready(http), deadline_s=120)
            if "I am allergic to peanuts." in block.text:
                await until(lambda: is_known(http, "allergic to peanuts"))  # nobody types as fast as this
    for words, answer in PRINTED.items():
        outputs = [output for text, output in printed.items() if words in text]
        assert outputs
        assert all(answer in output for output in outputs), outputs
    (played,) = (output for text, output in printed.items() if text == "memproxy demo\n")
    assert_shown(played)


async def is_ready(http: httpx.AsyncClient) -> bool:
    """Whether memproxy takes requests."""
    try:
        return (await http.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def is_known(http: httpx.AsyncClient, words: str) -> bool:
    """Whether a memory of alice's says so."""
    answer = await http.post("/u/alice/v1/long-term-memory/search", json={"text": words})
    return any(words in memory["text"] for memory in answer.json().get("memories", ()))


def assert_shown(played: str) -> None:
    """The README shows pieces of what `memproxy demo` prints, in order; ports and days differ."""
    whole = plain(played)
    for piece in re.split(r"^\.\.\.\n", SHOWN, flags=re.MULTILINE):
        assert plain(piece) in whole
        whole = whole.partition(plain(piece))[2]


def plain(text: str) -> str:
    """Without blanks at the ends of lines, and with the same port and day everywhere."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text)
    text = re.sub(r"\(\d{1,2} [A-Z][a-z]+ \d{4}\): (?:[^│]*?)\s*│", "(day): │", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def test_blocks_that_are_not_run_are_few_and_known_to_make() -> None:
    """What nobody carries out, nobody knows to work; these are at least targets."""
    skipped = [line for block in BLOCKS for line in block.text.splitlines() if line.startswith("make ")]
    assert all(any(line.startswith(begun) for begun in NOT_RUN) for line in skipped)
    for line in skipped:
        command = line.partition(" #")[0].split(maxsplit=2)[:2]
        subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_it_says_what_it_is_in_two_sentences() -> None:
    """Who reads no further knows what memproxy does, and the one thing to change."""
    paragraph = TEXT.split("\n\n")[1]
    assert len(re.findall(r"\.(?:\s|$)", paragraph)) == 2
    assert "one environment variable" in " ".join(paragraph.split())
