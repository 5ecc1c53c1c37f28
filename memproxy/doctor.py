"""`memproxy doctor`: look at everything that serving needs, and say what to do where something is missing.

Each check gives findings and never raises; one that fails does not keep the others from being made. Nothing is changed
but two keys in the store that are gone after ten seconds, and the embedded store, which is started if nobody has it.
"""

import asyncio
import enum
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from memproxy.errors import MemproxyError
from memproxy.memory.tool_policy import parse_policy
from memproxy.model_clients import open_embedder
from memproxy.proxy.upstream import Upstream
from memproxy.settings import Settings, unknown_variables
from memproxy.storage.diagnosis import Diagnosis, diagnose
from memproxy.storage.embedded import EmbeddedStore
from memproxy.tokens import count_tokens, load_vocabulary

LEAST_FREE_BYTES = 512 * 1024 * 1024
"""Of disk for the embedded store: its file is rewritten beside the old one now and then."""
FULL_SHARE = 0.9
SLOW_MS = 20.0
DEADLINE_S = 15.0
"""For one check."""


class Level(enum.Enum):
    """How bad it is."""

    OK = "[green]ok[/]"
    NOTE = "[yellow]note[/]"
    FAILED = "[red]failed[/]"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found. `advice`: what to do, empty where there is nothing to do."""

    subject: str
    level: Level
    text: str
    advice: str = ""


Check = Callable[[Settings], Awaitable[list[Finding]]]


async def examine(settings: Settings) -> list[Finding]:
    """Everything that was found, in the order of `CHECKS`."""
    found: list[Finding] = []
    for subject, check in CHECKS.items():
        try:
            async with asyncio.timeout(DEADLINE_S):
                found += await check(settings)
        except MemproxyError as error:
            found.append(Finding(subject, Level.FAILED, str(error)))
        except TimeoutError:
            found.append(Finding(subject, Level.FAILED, f"no answer within {DEADLINE_S:g} s"))
    return found


def show(console: Console, findings: Sequence[Finding]) -> bool:
    """Print the findings, and say whether nothing failed."""
    table = Table("", "", "", box=None, padding=(0, 1), show_header=False)
    for finding in findings:
        table.add_row(finding.level.value, finding.subject, finding.text)
        if finding.advice:
            table.add_row("", "", f"[dim]{finding.advice}[/]")
    console.print(table)
    failed = sum(finding.level is Level.FAILED for finding in findings)
    console.print(f"\n{failed} of {len(findings)} checks failed." if failed else "\nReady to serve.")
    return not failed


async def check_configuration(settings: Settings) -> list[Finding]:
    """Files that settings name, and variables that mean nothing."""
    windows, (rules, source) = settings.windows(), settings.tool_rules()
    parse_policy(rules, source=source)
    found = [Finding("configuration", Level.OK, f"readable; {len(windows)} known model families, tool rules {source}")]
    unknown = unknown_variables(os.environ)
    found += [Finding("configuration", Level.NOTE, f"{name} is set, but there is no such setting") for name in unknown]
    apart = settings.tells_tenants_apart
    text = "each credential is a tenant of its own" if apart else "one tenant for whoever reaches the port"
    found.append(Finding("tenancy", Level.OK, f"{text} (tenancy = {settings.tenancy.value})"))
    return found


async def check_vectors(settings: Settings) -> list[Finding]:
    """The vocabularies inside the package, and the embedding model, inside or out."""
    await asyncio.to_thread(load_vocabulary)
    counted = count_tokens("Hello, world")
    async with open_embedder(settings) as embedder:
        await embedder.embed_documents(["Hello, world"])
    return [
        Finding("embeddings", Level.OK, f"{embedder.name}, {embedder.dims} dimensions; a greeting has {counted} tokens")
    ]


async def check_store(settings: Settings) -> list[Finding]:
    """The store, as requests and workers need it."""
    if settings.redis_url:
        return judge_store(await _diagnosed(settings.store_url, settings), where="the configured Redis", is_own=False)
    async with EmbeddedStore(settings.data_dir) as embedded:
        where = f"embedded in {settings.data_dir}"
        return judge_store(await _diagnosed(embedded.url, settings), where=where, is_own=True)


async def _diagnosed(url: str, settings: Settings) -> Diagnosis:
    async with open_embedder(settings) as embedder:
        return await diagnose(
            url, connect_timeout_s=settings.redis_connect_timeout_s, model=embedder.name, dims=embedder.dims
        )


def judge_store(found: Diagnosis, *, where: str, is_own: bool) -> list[Finding]:
    """What the diagnosis means; pure. `is_own`: memproxy started the store itself."""
    told = f"{where}, version {found.facts.version}, answers in {found.took_ms:.1f} ms"
    findings = [Finding("store", Level.OK, told), *_risks(found, is_own=is_own)]
    if found.facts.is_cluster and not found.is_asked_as_cluster:
        advice = "Name it as what it is: redis+cluster://host:6379."
        return [*findings, Finding("store", Level.FAILED, "is a node of a Redis Cluster", advice)]
    findings += [
        Finding("store", Level.FAILED, f"does not allow {what}: {reason}", "Give memproxy's user that right.")
        for what, reason in found.refused.items()
    ]
    if found.has_recall_off:
        findings.append(Finding("search", Level.NOTE, found.search_problem))
    elif found.search_problem:
        findings.append(Finding("search", Level.FAILED, found.search_problem))
    elif not found.refused:
        findings.append(Finding("search", Level.OK, "the query engine takes memproxy's queries"))
    return findings


def _risks(found: Diagnosis, *, is_own: bool) -> Iterator[Finding]:
    """What about the store may lose memories, or will slow every request down."""
    facts, took_ms = found.facts, found.took_ms
    if facts.role not in {"master", ""}:
        advice = "Name the primary, or the Sentinels: redis+sentinel://host:26379/service."
        yield Finding("store", Level.FAILED, f"is a replica ({facts.role}) and takes no writes", advice)
    if facts.eviction not in {"noeviction", ""} and facts.memory_limit:
        advice = "Set maxmemory-policy noeviction: memproxy's keys have times to live where they may go."
        yield Finding("store", Level.FAILED, f"may throw memories away when full ({facts.eviction})", advice)
    if facts.memory_limit and facts.memory_used > FULL_SHARE * facts.memory_limit:
        share = f"{100 * facts.memory_used / facts.memory_limit:.0f} %"
        yield Finding("store", Level.NOTE, f"uses {share} of its memory", "Raise maxmemory before it refuses writes.")
    if not facts.is_appending and not is_own:
        advice = "Set appendonly yes, unless its data may be lost when it restarts."
        yield Finding("store", Level.NOTE, "keeps no append-only file", advice)
    if took_ms > SLOW_MS:
        advice = "Each request waits for two round trips: bring the store nearer, or expect requests without memory."
        yield Finding("store", Level.NOTE, f"needs {took_ms:.0f} ms for one answer", advice)


async def check_data_dir(settings: Settings) -> list[Finding]:
    """Where the embedded store lives."""
    if settings.redis_url:
        return []
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        advice = f"Let the user who runs memproxy write to {existing}, or set data_dir."
        return [Finding("data folder", Level.FAILED, f"{folder} can't be written", advice)]
    free = shutil.disk_usage(existing).free
    level = Level.OK if free >= LEAST_FREE_BYTES else Level.NOTE
    return [Finding("data folder", level, f"{folder}, {free / 2**30:.1f} GiB free")]


async def check_upstream(settings: Settings) -> list[Finding]:
    """Whether the model provider can be reached; what it thinks of our key, if we have one."""
    key = settings.upstream_api_key.get_secret_value() if settings.upstream_api_key else None
    patience = settings.upstream_connect_timeout_s
    async with Upstream(
        settings.upstream_base_url, api_key=key, connect_timeout_s=patience, idle_timeout_s=patience, connections=1
    ) as upstream:
        response = await upstream.send("GET", b"/models", query=b"", headers=[], body=b"", readable=True)
        await response.aclose()
    where = settings.upstream_base_url
    if key is not None and response.status in {401, 403}:
        advice = "Look at MEMPROXY_UPSTREAM_API_KEY."
        return [Finding("upstream", Level.FAILED, f"{where} refuses the key ({response.status})", advice)]
    if response.status >= 500:
        return [Finding("upstream", Level.NOTE, f"{where} answers, but with {response.status}")]
    return [Finding("upstream", Level.OK, f"{where} answers ({response.status})")]


async def check_extraction(settings: Settings) -> list[Finding]:
    """Whether a model makes memories."""
    if settings.extracts:
        return [Finding("extraction", Level.OK, f"by {settings.extraction_model}")]
    advice = "Set MEMPROXY_EXTRACTION_MODEL, and MEMPROXY_EXTRACTION_API_KEY or _BASE_URL, to have facts noted, too."
    return [Finding("extraction", Level.NOTE, "off: only what was said is remembered", advice)]


CHECKS: dict[str, Check] = {
    "configuration": check_configuration,
    "embeddings": check_vectors,
    "data folder": check_data_dir,
    "store": check_store,
    "upstream": check_upstream,
    "extraction": check_extraction,
}
"""What is looked at, by what it is called."""
