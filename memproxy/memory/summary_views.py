"""Summary views: standing wishes for summaries of long-term memories, one for each group of them.

A summary says which memories it rests on. So a group in which nothing changed costs no model call, one to which
something was added costs one with the summary so far and the new memories, and only after a change or a deletion all of
them are read again.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from memproxy.clock import Clock
from memproxy.errors import MemproxyError, ModelCallError, NotConfiguredError, RequestError
from memproxy.memory.search import Found, Query
from memproxy.memory.summaries import Asks, Statement, Summariser, Wishes
from memproxy.memory.view_groups import Address, Group, added, address_of, counts, cover, grouped, in_order, is_current
from memproxy.memory.view_groups import selection as selected
from memproxy.records import JsonObject, MemoryRecord
from memproxy.storage.memory_filter import Filter, Rule
from memproxy.storage.summary_views import GroupSummary, Put, SummaryView, SummaryViewStore

log = logging.getLogger(__name__)

PAGE = 500
"""Memories read at a time."""

MAX_MEMORIES = 50_000
"""Memories that one run may cover: about 50 MB of this process while they are sorted into groups."""

MAX_GROUP_MEMORIES = 2_000
"""Of a larger group, the newest: about 15 model calls when all are read again."""

GROUP_DEADLINE_S = 300.0
"""For one group of a run in the background; what its many calls may take."""

GROUPS_AT_ONCE = 4

NO_MODEL = (
    "No model is configured that could write the summary. Set extraction_model (MEMPROXY_EXTRACTION_MODEL), and "
    "extraction_base_url, extraction_api_key or upstream_api_key so that it can be asked."
)


class Finds(Protocol):
    """Long-term memory, as far as views need it."""

    async def find(self, tenant: str, query: Query) -> Found:
        """One page of the tenant's memories that a query finds; raises StoreError."""
        ...


ModelFor = Callable[[str, str | None], Asks]
"""The model that writes a tenant's summaries: the one of this name, or the background model."""

ReadFilters = Callable[[JsonObject], Sequence[Rule]]
"""What a view's filters mean: known to the API that takes them."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What one run of a view did, in groups."""

    made: int = 0
    kept: int = 0
    """Nothing had changed in them."""
    dropped: int = 0
    """No memory is left of them."""


class SummaryViews:
    """Makes the summaries of views. Without a model, only groups that have no memories get theirs."""

    def __init__(
        self,
        store: SummaryViewStore,
        long_term: Finds,
        *,
        model_for: ModelFor | None,
        read_filters: ReadFilters,
        clock: Clock,
    ) -> None:
        self.store = store
        self._long_term = long_term
        self._model_for = model_for
        self._read_filters = read_filters
        self._clock = clock
        self._summariser = Summariser()
        self._places = asyncio.Semaphore(GROUPS_AT_ONCE)

    async def run_group(
        self, tenant: str, view: SummaryView, values: Mapping[str, str], *, deadline_s: float
    ) -> GroupSummary:
        """Make the summary of one group anew, store it, and give it back.

        Raises:
            NotConfiguredError: the group has memories, and there is no model.
            ModelCallError: the model failed, or was not done within `deadline_s`.
            BudgetSpentError: the tenant has spent what the model may cost it.
            RequestError: the view has as many summaries as it may have.
            StoreError: the store can't be used.
        """
        read_at = self._clock.now()
        group = Group(values, await self._newest(tenant, view, values, now=read_at))
        summary = await self._summarised(tenant, view, group, known=None, read_at=read_at, deadline_s=deadline_s)
        await self._put(tenant, view, summary)
        return summary

    async def refresh(self, tenant: str, view: SummaryView, *, force: bool) -> Refreshed:
        """Bring all summaries of a view up to date; with `force` also those whose memories did not change.

        One group's failure does not keep the others from theirs, and is raised at the end; see `run_group`. A
        RequestError also says that the view covers more memories than can be summarised.
        """
        read_at = self._clock.now()
        groups = await self._groups(tenant, view, now=read_at)
        stored = {address_of(view, each.group): each for each in await self.store.summaries(tenant, view.id)}
        gone = [summary for address, summary in stored.items() if address not in groups]
        for summary in gone:
            await self.store.drop(tenant, view, summary.group, read_at=read_at)
        known = {} if force else {address: each for address, each in stored.items() if address in groups}
        to_make = {
            address: group
            for address, group in groups.items()
            if address not in known or not is_current(known[address], group)
        }
        await self._make(tenant, view, to_make, known=known, read_at=read_at)
        return Refreshed(made=len(to_make), kept=len(groups) - len(to_make), dropped=len(gone))

    async def refresh_due(self, *, every_s: float, limit: int = 5) -> int:
        """Bring continuous views up to date that were not looked at for `every_s`; how many there were.

        Any number of workers may call it; each view is taken by one. What fails is logged, and tried again in time.
        Without a model nothing is done. Raises StoreError.
        """
        if self._model_for is None:
            return 0
        due = await self.store.claim_due(now=self._clock.now(), again=timedelta(seconds=every_s), limit=limit)
        for one in due:
            view = await self.store.view(one.tenant, one.view_id)
            if view is None:
                await self.store.forget_due(one)
                continue
            try:
                log.info("the summary view %s: %s", view.id, await self.refresh(one.tenant, view, force=False))
            except MemproxyError as error:
                log.warning("the summary view %s could not be refreshed: %s", view.id, error)
        return len(due)

    async def forget_user(self, tenant: str, user: str) -> int:
        """Remove the summaries that are grouped by user and are this one's, and say how many there were.

        Summaries of groups that the user was only a part of are made anew when their view is run next.
        """
        forgotten = 0
        for view in await self.store.views(tenant):
            for summary in await self.store.summaries(tenant, view.id):
                if summary.group.get("user_id") == user:
                    await self.store.drop(tenant, view, summary.group, read_at=self._clock.now())
                    forgotten += 1
        return forgotten

    async def _make(
        self,
        tenant: str,
        view: SummaryView,
        groups: Mapping[Address, Group],
        *,
        known: Mapping[Address, GroupSummary],
        read_at: datetime,
    ) -> None:
        failed: list[MemproxyError] = []

        async def make(address: Address, group: Group) -> None:
            async with self._places:
                if any(not _is_one_groups_own(error) for error in failed):
                    return
                try:
                    before = known.get(address)
                    summary = await self._summarised(
                        tenant, view, group, known=before, read_at=read_at, deadline_s=GROUP_DEADLINE_S
                    )
                    await self._put(tenant, view, summary)
                except MemproxyError as error:
                    failed.append(error)

        async with asyncio.TaskGroup() as tasks:
            for address, group in groups.items():
                tasks.create_task(make(address, group))
        if failed:
            raise next((error for error in failed if not _is_one_groups_own(error)), failed[0])

    async def _put(self, tenant: str, view: SummaryView, summary: GroupSummary) -> None:
        match await self.store.put(tenant, view, summary):
            case Put.FULL:
                most = self.store.max_summaries
                raise RequestError(f"A view may have {most} summaries, and this one has as many; narrow it by filters.")
            case Put.GONE:
                raise RequestError("The view was deleted while it was run.")
            case Put.STORED | Put.OLDER:
                return

    async def _summarised(
        self,
        tenant: str,
        view: SummaryView,
        group: Group,
        *,
        known: GroupSummary | None,
        read_at: datetime,
        deadline_s: float,
    ) -> GroupSummary:
        text = ""
        if group.records:
            try:
                async with asyncio.timeout(deadline_s):
                    text = await self._written(tenant, view, group, known=known)
            except TimeoutError as error:
                raise ModelCallError(f"the summary was not written within {deadline_s:g} s", retryable=True) from error
        return GroupSummary(
            group=group.values,
            text=text,
            memory_count=len(group.records),
            read_at=read_at,
            computed_at=self._clock.now(),
            covers=cover(group.records),
        )

    async def _written(self, tenant: str, view: SummaryView, group: Group, *, known: GroupSummary | None) -> str:
        if self._model_for is None:
            raise NotConfiguredError(NO_MODEL)
        model = self._model_for(tenant, view.model)
        new = added(known, group) if known is not None else None
        return await self._summariser.summarise(
            [Statement(record.text, record.created_at) for record in (group.records if new is None else new)],
            wishes=Wishes(model, group.values, view.prompt),
            earlier="" if new is None or known is None else known.text,
        )

    async def _groups(self, tenant: str, view: SummaryView, *, now: datetime) -> Mapping[Address, Group]:
        where = selected(view, self._read_filters(view.filters), now=now, values={})
        records = await self._read(tenant, view, where, limit=MAX_MEMORIES, is_all_or_nothing=True)
        groups = grouped(view, records, limit=MAX_GROUP_MEMORIES)
        if len(groups) > self.store.max_summaries:
            raise RequestError(
                f"The view has {len(groups)} groups, and {self.store.max_summaries} are allowed; narrow it by filters, "
                "or group by fewer fields."
            )
        return groups

    async def _newest(
        self, tenant: str, view: SummaryView, values: Mapping[str, str], *, now: datetime
    ) -> Sequence[MemoryRecord]:
        where = selected(view, self._read_filters(view.filters), now=now, values=values)
        records = await self._read(tenant, view, where, limit=MAX_GROUP_MEMORIES)
        return in_order(records)[-MAX_GROUP_MEMORIES:]

    async def _read(
        self, tenant: str, view: SummaryView, where: Filter, *, limit: int, is_all_or_nothing: bool = False
    ) -> list[MemoryRecord]:
        """What counts of what passes the filter, the newest first, about `limit` at most."""
        records: list[MemoryRecord] = []
        offset: int | None = 0
        while offset is not None and len(records) < limit:
            found = await self._long_term.find(tenant, Query(where=where, limit=PAGE, offset=offset))
            if is_all_or_nothing and found.total > limit:
                raise RequestError(
                    f"The view covers {found.total} memories, and {limit} are allowed; narrow it by filters or a time "
                    "window."
                )
            records += [match.record for match in found.memories if counts(view, match.record)]
            offset = found.next_offset
        return records


def _is_one_groups_own(error: MemproxyError) -> bool:
    """Whether other groups may fare better."""
    return isinstance(error, ModelCallError) and error.retryable
