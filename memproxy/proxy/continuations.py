"""Let a client go on from an answer by the id that it knows, where the provider knows the answer's end by another."""

import asyncio
import logging
from collections import OrderedDict
from urllib.parse import quote, unquote_to_bytes

from memproxy.errors import StoreError
from memproxy.records import Scope
from memproxy.storage.continuations import Continuation, ContinuationStore
from memproxy.tasks import Tasks
from memproxy.wire.dialect import Request

log = logging.getLogger(__name__)

KEPT = 1_000
"""At hand in each process: a request that follows at once finds them though the store is slow or away."""

MAX_ID_CHARS = 256


class Continuations:
    """What stands for the ids that clients know."""

    def __init__(self, store: ContinuationStore, tasks: Tasks, *, deadline_s: float) -> None:
        self._store = store
        self._tasks = tasks
        self._deadline_s = deadline_s
        self._at_hand: OrderedDict[tuple[Scope, str], Continuation] = OrderedDict()

    def put(self, scope: Scope, known_id: str, continuation: Continuation) -> None:
        """Remember what stands for an id; the store has it soon."""
        self._at_hand[scope, known_id] = continuation
        self._at_hand.move_to_end((scope, known_id))
        if len(self._at_hand) > KEPT:
            self._at_hand.popitem(last=False)
        self._tasks.start(self._keep(scope, known_id, continuation), name="remember how to go on from an answer")

    async def _keep(self, scope: Scope, known_id: str, continuation: Continuation) -> None:
        try:
            await self._store.put(scope, known_id, continuation)
        except StoreError as error:
            log.warning("only this process knows how to go on from an answer: %s", error)

    async def of(self, scope: Scope, known_id: str) -> Continuation | None:
        """What stands for this id; None where it stands for itself, or nobody can be asked."""
        if not known_id or len(known_id) > MAX_ID_CHARS:
            return None
        at_hand = self._at_hand.get((scope, known_id))
        if at_hand is not None:
            return at_hand
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._store.get(scope, known_id)
        except (StoreError, TimeoutError) as error:
            log.warning("going on from an answer under the client's own id: %s", error)
            return None

    async def applied(self, scope: Scope, request: Request) -> bytes:
        """The request's bytes as the provider can follow them; its own where nothing stands for what it refers to."""
        found = await self.of(scope, known_id_of(request)) if request.is_chained else None
        if found is None or not (found.answer_id or found.messages):
            return request.body
        return request.dialect.continued(request, found.answer_id or request.continues, found.messages)

    async def path(self, scope: Scope, rest: bytes) -> bytes:
        """The path of a request about one answer, with the id under which the provider has its end."""
        resource, known_id, below = _split(rest)
        found = await self.of(scope, known_id) if resource == b"responses" else None
        if found is None or not found.answer_id:
            return rest
        return b"/responses/" + quote(found.answer_id, safe="").encode() + below


def known_id_of(request: Request) -> str:
    """The id that a request refers to: of an answer, or of a conversation at the provider."""
    conversation = request.fields.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    return request.continues or (conversation if isinstance(conversation, str) else "")


def _split(rest: bytes) -> tuple[bytes, str, bytes]:
    """`/responses/resp_1/cancel` as its resource, the id, and what is below that."""
    resource, _, below = rest.lstrip(b"/").partition(b"/")
    known_id, slash, below = below.partition(b"/")
    return resource, unquote_to_bytes(known_id).decode("utf-8", "replace"), slash + below
