"""What the handlers of the memory API work with: one frozen value, made where everything is wired together."""

from dataclasses import dataclass

from memproxy.clock import Clock
from memproxy.identity import Tenants
from memproxy.llm import JsonModel
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.summary_views import SummaryViews
from memproxy.memory.view_runs import ViewRuns
from memproxy.memory_api.sessions import Sessions
from memproxy.tasks import Tasks


@dataclass(frozen=True, slots=True)
class MemoryApi:
    """The parts of memproxy that the memory API gives to the outside. None: the part is not there."""

    tenants: Tenants
    clock: Clock
    tasks: Tasks
    long_term: LongTermMemory
    views: SummaryViews
    runs: ViewRuns
    deadline_s: float
    """How long one request may wait for the store and the models."""
    model_deadline_s: float
    """How long one request may wait for the background model."""
    max_body_bytes: int
    default_user: str | None = None
    """Whose memory it is when a request that must know it names nobody."""
    is_on: bool = True
    """Whether there is long-term memory at all."""
    model: JsonModel | None = None
    """The background model."""
    sessions: Sessions | None = None
    """None: only memories are served."""
