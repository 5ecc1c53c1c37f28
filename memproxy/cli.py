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
from memproxy.errors import MemproxyError
from memproxy.memory.tool_policy import parse_policy
from memproxy.server import serve as run_server
from memproxy.server import work as run_workers
from memproxy.settings import Settings, read_settings, unknown_variables
from memproxy.telemetry import configure_logging
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
def demo() -> None:
    """Show what memory does: no key, no network, nothing left behind."""
    configure_logging("warning")
    console = Console()
    missing = asyncio.run(play(console))
    sys.exit(verdict(console, missing))


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


def _started(options: dict[str, Any]) -> Settings:
    settings = read_settings(options)
    settings.windows()
    text, source = settings.tool_rules()
    parse_policy(text, source=source)
    configure_logging(settings.log_level)
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
