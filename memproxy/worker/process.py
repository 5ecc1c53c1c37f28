"""Run all workers of one process until they are told to stop, and keep an eye on the queues."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext

from memproxy.errors import StoreError, StoreUnfitError
from memproxy.memory_api.summary_views import views_of
from memproxy.services import Services
from memproxy.storage.queue import Stage
from memproxy.worker.fresh_views import fresh_views
from memproxy.worker.jobs import Patience, jobs
from memproxy.worker.lanes import Rules
from memproxy.worker.outage import Observe
from memproxy.worker.runner import Limits, Worker
from memproxy.worker.traced_jobs import traced

log = logging.getLogger(__name__)

BLOCK_S = 1.0
"""One look into an empty queue."""

WATCH_S = 5.0
"""How often the queues are measured: depth and age for metrics, the store's memory for what is queued at all."""

BACKFILL_RETRY_S = 30.0
"""How soon memories are brought up to date after the store, or the service that makes vectors, was away."""

BATCH_BYTES = 60_000
"""Of a batch that a model reads at one go, as JSON: about 10,000 tokens."""


@asynccontextmanager
async def running_workers(
    services: Services, *, works: bool = True, observe: Observe | None = None
) -> AsyncIterator[None]:
    """Work off the queues while inside; leaving lets running jobs finish within their grace period.

    Where workers run elsewhere (`works` is False), the queues are only measured. `observe` gets what the workers count,
    by default this process's metrics.
    """
    workers = _workers(services, observe or services.metrics.observe_job) if works else {}
    running = [services.tasks.spawn(worker.run(), name=f"worker of {stage}") for stage, worker in workers.items()]
    beside = [services.tasks.spawn(_watch(services, workers), name="watch the queues")]
    if works:
        beside.append(services.tasks.spawn(_bring_up_to_date(services), name="bring memories up to date"))
    views = views_of(services)
    every_s = services.settings.summary_refresh_s
    try:
        async with fresh_views(views, services.tasks, every_s=every_s) if works else nullcontext():
            yield
    finally:
        for task in beside:
            task.cancel()
        for worker in workers.values():
            worker.stop()
        await asyncio.wait([*beside, *running])


def _workers(services: Services, observe: Observe) -> dict[Stage, Worker]:
    settings = services.settings
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    learn_rules = Rules(
        turns=settings.extraction_batch_turns,
        size=BATCH_BYTES,
        quiet_s=settings.extraction_debounce_s,
        longest_s=settings.extraction_max_wait_s,
    )
    patience = Patience(attempts=settings.extraction_attempts, first_delay_s=settings.extraction_retry_s)
    limits = Limits(block_s=BLOCK_S, parallel=settings.extraction_jobs, grace_s=settings.shutdown_grace_s)
    return {
        job.stage: Worker(
            services.queues[job.stage],
            services.queues[job.stage].leases_of(name, ttl_s=settings.worker_lease_s),
            traced(job, services.metrics.traces),
            patience=patience,
            limits=limits,
            observe=observe,
        )
        for job in jobs(
            services.extractor,
            learn_rules=learn_rules,
            now=services.clock.now,
            on_persisted=services.on_persisted,
            observe=observe,
        )
    }


async def _bring_up_to_date(services: Services) -> None:
    """Make anew, once a process, the memories that an earlier version or another embedding model wrote."""
    while True:
        try:
            await services.long_term.backfill()
        except StoreUnfitError:  # nothing is kept there, and it was said at start
            return
        except StoreError as error:
            log.debug("memories were not brought up to date: %s", error)
            await asyncio.sleep(BACKFILL_RETRY_S)
        else:
            return


async def _watch(services: Services, workers: Mapping[Stage, Worker]) -> None:
    while True:
        try:
            await look(services, workers)
        except StoreError as error:
            log.debug("the queues were not measured: %s", error)  # whoever works on them has said it louder
        await asyncio.sleep(WATCH_S)


async def look(services: Services, workers: Mapping[Stage, Worker]) -> None:
    """Measure once. Raises `StoreError`."""
    metrics = services.metrics
    for stage, worker in workers.items():
        metrics.worker_partitions.labels(stage).set(len(worker.partitions))
    await services.store_memory.look()
    metrics.store_memory_share.set(services.store_memory.share)
    for stage, queue in services.queues.items():
        depth = await queue.depth()
        for state, turns in (("waiting", depth.waiting), ("pending", depth.pending), ("dead", depth.dead)):
            metrics.queued_turns.labels(stage, state).set(turns)
        metrics.queue_oldest_seconds.labels(stage).set(depth.oldest_s)
