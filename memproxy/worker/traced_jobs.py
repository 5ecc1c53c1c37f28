"""Attempts to learn, as spans of their own traces that point to the requests which brought the turns."""

from collections.abc import Sequence
from dataclasses import replace

from memproxy.records import Turn
from memproxy.telemetry.traces import Traces
from memproxy.worker.jobs import Job


def traced(job: Job, traces: Traces | None) -> Job:
    """The same job, with a span for each attempt; the job itself where no traces are made."""
    if traces is None:
        return job

    async def run(turns: Sequence[Turn]) -> int:
        linked = [turn.trace for turn in turns if turn.trace]
        told = {"messaging.batch.message_count": len(turns)}
        with traces.span(f"learn {job.stage}", kind="consumer", attributes=told, linked=linked) as span:
            tokens = await job.run(turns)
            span.set({"memproxy.tokens": tokens})
            return tokens

    return replace(job, run=run)
