"""The command `memproxy`."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click as plain_click
import rich_click as click
from rich.console import Console

from memproxy.demo.play import play, verdict
from memproxy.doctor import examine, show
from memproxy.errors import MemproxyError
from memproxy.extract_session import Whose, extract_session, show_extracted
from memproxy.import_conversations import Defaults, import_file, show_tally
from memproxy.learning_process import work as run_workers
from memproxy.mcp_command import serve_mcp
from memproxy.memory.tool_policy import parse_policy
from memproxy.queue_commands import as_json, drop, read_state, retry, show_state
from memproxy.server import serve as run_server
from memproxy.settings import Settings, read_settings, unknown_variables
from memproxy.storage.queue import Stage
from memproxy.telemetry.logs import configure_logging
from memproxy.telemetry.traces import is_wanted
from memproxy.tools_report import read_totals, replayed, show_replayed, show_totals

log = logging.getLogger(__name__)

_STORE_AND_MODEL = (
    click.option("--config", type=click.Path(dir_okay=False), help="A TOML file of settings."),
    click.option(
        "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where the embedded store lives."
    ),
    click.option("--redis-url", help="A Redis with the query engine, instead of the embedded store."),
    click.option("--upstream", "upstream_base_url", help="The model provider's base URL, ending in /v1."),
    click.option("--extraction-model", help="The model that makes memories."),
    click.option("--extraction-base-url", help="Its endpoint; default is the upstream."),
    click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"])),
)

_STAGES = click.option(
    "--stage",
    multiple=True,
    type=click.Choice([stage.value for stage in Stage]),
    help="Only of this stage; repeatable.",
)
_LETTERS = click.argument("letters", metavar="[ID]...", nargs=-1)

_TENANT = (
    click.option("--tenancy", type=click.Choice(["auto", "single", "key"]), help="As the server has it."),
    click.option("--api-key", envvar="OPENAI_API_KEY", help="The agent's key, where each key is a tenant of its own."),
)


def _with_tenant(command: Any) -> Any:
    for option in reversed(_TENANT):
        command = option(command)
    return command


def _with_store_and_model(command: Any) -> Any:
    for option in reversed(_STORE_AND_MODEL):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="memproxy")
def cli() -> None:
    """Memory for any OpenAI-compatible agent, by changing one environment variable."""


@cli.command()
@click.option("--host", "listen_host", help="The address to listen on.")
@click.option("--port", "listen_port", type=int, help="The port to listen on.")
@click.option("--workers", type=int, help="Serving processes.")
@_with_store_and_model
def serve(**options: Any) -> None:
    """Serve the proxy, with its background workers."""
    run_server(_started(options))


@cli.command()
@_with_store_and_model
def worker(**options: Any) -> None:
    """Run background workers alone."""
    run_workers(_started(options))


@cli.command()
@click.option("--user", "mcp_user", help="Whose memory it is when a call names nobody.")
@click.option("--namespace", "mcp_namespace", help="In which namespace.")
@_with_store_and_model
def mcp(**options: Any) -> None:
    """Offer memory's tools over MCP, on standard input and output."""
    serve_mcp(_started(options))


@cli.command()
@_with_store_and_model
def doctor(**options: Any) -> None:
    """Look at configuration, store, provider and models, and say what to do where something is missing."""
    settings = read_settings(options)
    configure_logging("error")
    if not show(Console(), asyncio.run(examine(settings))):
        sys.exit(1)


@cli.command()
def demo() -> None:
    """Show what memory does: no key, no network, nothing left behind."""
    configure_logging("warning")
    console = Console()
    missing = asyncio.run(play(console))
    sys.exit(verdict(console, missing))


@cli.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--user", help="Whose conversations these are, where a line does not say it.")
@click.option("--namespace", help="In which namespace, where a line does not say it.")
@click.option("--session-prefix", default="import-", show_default=True, help="Begins the names of unnamed sessions.")
@_with_tenant
@_with_store_and_model
def import_(
    file: Path, user: str | None, namespace: str | None, session_prefix: str, api_key: str | None, **options: Any
) -> None:
    """Learn from past conversations: FILE has one JSON object with "messages" a line.

    Lines may name "user", "session" and "namespace", messages their "created_at". What is there already is left
    alone, so a run that was broken off is simply repeated. The workers of a running server learn from it.
    """
    settings = _quietly(options)
    defaults = Defaults(user or settings.default_user or None, namespace, session_prefix)
    console = Console(stderr=True)
    tally = asyncio.run(import_file(settings, file, defaults=defaults, credential=api_key, console=console))
    show_tally(console, file, tally)
    sys.exit(1 if tally.bad else 0)


@cli.command()
@click.option("--session", required=True, help="The session's name.")
@click.option("--user", help="Whose session it is.")
@click.option("--namespace", help="In which namespace.")
@_with_tenant
@_with_store_and_model
def extract(session: str, user: str | None, namespace: str | None, api_key: str | None, **options: Any) -> None:
    """Make memories of a whole stored session, now and by hand."""
    settings = _quietly(options)
    whose = Whose(session, user or settings.default_user or None, namespace)
    console = Console(stderr=True)
    found = asyncio.run(extract_session(settings, whose, credential=api_key, console=console))
    show_extracted(console, found)
    sys.exit(1 if found.failed else 0)


@cli.group()
def queue() -> None:
    """What waits to be learned from, and what was given up."""


@queue.command("list")
@_STAGES
@click.option("--json", "is_json", is_flag=True, help="As one JSON document.")
@click.option("--limit", default=50, show_default=True, help="Dead letters shown, the newest first.")
@_with_store_and_model
def list_(stage: tuple[str, ...], is_json: bool, limit: int, **options: Any) -> None:
    """Show how many turns wait, who works on them, and which were given up and why. No words of them."""
    state = asyncio.run(read_state(_quietly(options), _stages(stage), limit=limit))
    if is_json:
        click.echo(as_json(state))
    else:
        show_state(Console(), state)


@queue.command("retry")
@_LETTERS
@_STAGES
@click.option("--all", "is_all", is_flag=True, help="All of them.")
@_with_store_and_model
def retry_(letters: tuple[str, ...], stage: tuple[str, ...], is_all: bool, **options: Any) -> None:
    """Put turns that were given up back into the queue, by the IDs that list shows or by their turns' ids."""
    _require_choice(letters, is_all=is_all)
    click.echo(f"{asyncio.run(retry(_quietly(options), letters, stages=_stages(stage)))} turns are tried again.")


@queue.command("drop")
@_LETTERS
@_STAGES
@click.option("--all", "is_all", is_flag=True, help="All of them.")
@_with_store_and_model
def drop_(letters: tuple[str, ...], stage: tuple[str, ...], is_all: bool, **options: Any) -> None:
    """Delete turns that were given up: nothing will be learned from them."""
    _require_choice(letters, is_all=is_all)
    click.echo(f"{asyncio.run(drop(_quietly(options), letters, stages=_stages(stage)))} turns are dropped.")


@cli.group()
def tools() -> None:
    """What is known about the tools of your agents."""


@tools.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_with_store_and_model
def report(files: tuple[Path, ...], **options: Any) -> None:
    """Show what became of repeated tool calls.

    With FILES (a JSON object with "messages" a line), show what would have become of the calls in them.
    """
    settings = read_settings(options)
    configure_logging("warning")
    text, source = settings.tool_rules()
    if files:
        show_replayed(Console(), replayed(files, parse_policy(text, source=source)))
    else:
        show_totals(Console(), asyncio.run(read_totals(settings)))


def _quietly(options: dict[str, Any]) -> Settings:
    """Settings for a command that only looks, or does one thing: the log tells what is wrong, nothing else."""
    settings = read_settings(options)
    configure_logging("warning" if settings.log_level == "info" else settings.log_level, settings.log_format)
    return settings


def _stages(names: tuple[str, ...]) -> list[Stage]:
    return [Stage(name) for name in names] or list(Stage)


def _require_choice(letters: tuple[str, ...], *, is_all: bool) -> None:
    if bool(letters) == is_all:
        raise click.UsageError("Name the turns by their IDs, or say --all.")


def _started(options: dict[str, Any]) -> Settings:
    settings = read_settings(options)
    settings.windows()
    text, source = settings.tool_rules()
    parse_policy(text, source=source)
    configure_logging(settings.log_level, settings.log_format)
    is_wanted(setting=settings.tracing, environment=os.environ)
    for name in unknown_variables(os.environ):
        log.warning("%s is set, but there is no such setting; it is ignored", name)
    return settings


def main() -> None:
    """Run the command; what goes wrong on purpose is told in a line, not in a traceback."""
    try:
        cli(standalone_mode=False)
    except plain_click.Abort:
        sys.exit(130)
    except plain_click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MemproxyError as error:
        click.echo(f"memproxy: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
