"""Pass the response on, byte for byte, while keeping what an observer reads after the last byte.

Each piece is sent as it was read: never joined, cut or decoded. Reading along costs a reference per piece.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from memproxy.errors import UpstreamError
from memproxy.records import Outcome

OBSERVED_BYTES = 16 * 1024 * 1024
"""An answer beyond this is relayed, but no longer kept for reading."""


@dataclass(slots=True)
class Relayed:
    """What passed through, filled while it passes: the client may leave at any moment."""

    keeps: bool = True
    """Whether anybody reads the bytes afterwards."""
    status: int | None = None
    """Of the response; None until there is one."""
    content_type: str = ""
    content_encoding: str = ""
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    first_byte_at_s: float | None = None
    """Monotonic."""
    outcome: Outcome = Outcome.ABORTED
    """Until the last byte has passed."""
    error: str = ""

    @property
    def is_observed(self) -> bool:
        """All bytes are in `chunks`."""
        return self.keeps and self.size <= OBSERVED_BYTES

    def keep(self, chunk: bytes) -> None:
        """Note a chunk that was written to the client."""
        if self.first_byte_at_s is None:
            self.first_byte_at_s = time.monotonic()
        self.size += len(chunk)
        if self.is_observed:
            self.chunks.append(chunk)
        else:
            self.chunks.clear()


async def relay(chunks: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]], into: Relayed) -> None:
    """Write each chunk as it arrives; `into` tells how far it went. Does not raise when the model server breaks off."""
    try:
        async for chunk in chunks:
            await write(chunk)
            into.keep(chunk)
    except UpstreamError as error:
        into.outcome = Outcome.FAILED
        into.error = str(error)
    else:
        into.outcome = Outcome.COMPLETED
