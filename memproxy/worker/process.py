"""Run all workers of one process until they are told to stop."""

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memproxy.services import Services
from memproxy.worker.jobs import jobs
from memproxy.worker.runner import Limits, Worker

BLOCK_S = 0.25
"""One look into an empty queue; stopping waits for it."""


@asynccontextmanager
async def running_workers(services: Services) -> AsyncIterator[None]:
    """Work off the queues while inside; leaving lets running jobs finish within their grace period."""
    consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    limits = Limits(
        block_s=BLOCK_S, parallel=services.settings.extraction_jobs, grace_s=services.settings.shutdown_grace_s
    )
    workers = {
        job.stage: Worker(
            services.queues[job.stage], job, consumer=consumer, limits=limits, observe=services.metrics.observe_job
        )
        for job in jobs(services.extractor)
    }
    running = [services.tasks.spawn(worker.run(), name=f"worker of {stage}") for stage, worker in workers.items()]
    try:
        yield
    finally:
        for worker in workers.values():
            worker.stop()
        await asyncio.wait(running)
