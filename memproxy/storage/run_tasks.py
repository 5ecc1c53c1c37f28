"""Tasks: long work that a caller of the REST API asked for, and how it goes.

    pending ──► running ──► success
       └───────────┴──────► failed

No other change is ever made, whoever tries: each is put in place of exactly the state that it was decided on. Whoever
works at a task beats now and then; when the beats stop, the process is gone, and the next one who asks finds (and
leaves) the task failed. A task is kept for seven days after its last change.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import resources
from types import MappingProxyType
from typing import Any

import msgspec
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.storage import schema
from memproxy.storage.connection import translated

KEPT_S = 7 * 86_400
"""Source: the time to live of agent-memory-server's tasks."""

SILENCE_S = 60.0
"""Without a beat for so long, nobody works at the task any more; see BEAT_S."""

BEAT_S = 10.0
"""How often whoever works at a task beats: some of them may be late."""

ATTEMPTS = 10
"""How often a change begins anew because somebody else was faster; two parties change a task, seldom at once."""


class TaskStatus(enum.StrEnum):
    """How a task goes, in agent-memory-server's words."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


NEXT: Mapping[TaskStatus, frozenset[TaskStatus]] = MappingProxyType(
    {
        TaskStatus.PENDING: frozenset({TaskStatus.RUNNING, TaskStatus.FAILED}),
        TaskStatus.RUNNING: frozenset({TaskStatus.SUCCESS, TaskStatus.FAILED}),
        TaskStatus.SUCCESS: frozenset(),
        TaskStatus.FAILED: frozenset(),
    }
)
"""What may come after what."""


@dataclass(frozen=True, slots=True)
class RunTask:
    """One full run of a summary view."""

    id: str
    view_id: str
    status: TaskStatus
    created_at: datetime
    beat_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error_message: str | None = None

    @property
    def is_over(self) -> bool:
        return not NEXT[self.status]


def moved(task: RunTask, status: TaskStatus, *, now: datetime, error_message: str | None = None) -> RunTask | None:
    """The task in its next state; None when it can't have that."""
    if status not in NEXT[task.status]:
        return None
    changed = replace(task, status=status, beat_at=now, error_message=error_message)
    return replace(changed, completed_at=now) if changed.is_over else replace(changed, started_at=now)


def beaten(task: RunTask, *, now: datetime) -> RunTask | None:
    """The task with a sign of life; None when it is over."""
    return None if task.is_over else replace(task, beat_at=now)


def abandoned(task: RunTask, *, now: datetime) -> RunTask | None:
    """The task as failed, if nobody works at it any more."""
    if task.is_over or now - task.beat_at <= timedelta(seconds=SILENCE_S):
        return None
    return moved(task, TaskStatus.FAILED, now=now, error_message="The process that worked at it ended. Run it again.")


class RunTaskStore:
    """Keeps tasks. Every method raises `StoreError` and has the deadline that its caller sets."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        script = resources.files("memproxy.storage") / "lua" / "swap.lua"
        self._swap = redis.register_script(script.read_text("utf-8"))

    async def add(self, tenant: str, task: RunTask) -> bool:
        """Store a new task; False when there is one with this id."""
        return await self._put(tenant, task, instead_of=b"")

    async def get(self, tenant: str, task_id: str, *, now: datetime) -> RunTask | None:
        """The task with this id, or None; one that nobody works at any more has failed by then."""
        task = await self._read(tenant, task_id)
        if task is None or abandoned(task, now=now) is None:
            return task
        await self.change(tenant, task_id, lambda known: abandoned(known, now=now))
        return await self._read(tenant, task_id)

    async def change(self, tenant: str, task_id: str, decide: Callable[[RunTask], RunTask | None]) -> RunTask | None:
        """Put the task into the state that `decide` gives, and give it back; None when it gives none or there is no
        task.

        When others are faster, `decide` is asked again with what they made of it.
        """
        for _ in range(ATTEMPTS):
            raw = await self._raw(tenant, task_id)
            changed = decide(_task(raw)) if raw else None
            if changed is None or await self._put(tenant, changed, instead_of=raw):
                return changed
        raise StoreError("A task kept changing while it was to be changed.")

    async def _read(self, tenant: str, task_id: str) -> RunTask | None:
        raw = await self._raw(tenant, task_id)
        return _task(raw) if raw else None

    async def _raw(self, tenant: str, task_id: str) -> bytes:
        with translated("reading a task"):
            raw: Any = await self._redis.get(schema.task_key(tenant, task_id))  # Any: the client's type has str, too
        return raw or b""

    async def _put(self, tenant: str, task: RunTask, *, instead_of: bytes) -> bool:
        arguments: list[Any] = [instead_of, msgspec.json.encode(task), KEPT_S * 1_000]
        with translated("storing a task"):
            return bool(await self._swap(keys=[schema.task_key(tenant, task.id)], args=arguments))


_TASK = msgspec.json.Decoder(RunTask)


def _task(raw: bytes) -> RunTask:
    try:
        return _TASK.decode(raw)
    except msgspec.DecodeError as error:
        raise StoreError("A stored task can't be read; was it written by a newer memproxy?") from error
