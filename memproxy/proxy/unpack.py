"""Read compressed request bodies; the only door to zstandard. Pure.

Clients may compress what they send (codex does, with zstd). A body is unpacked for reading only, up to the size that an
unpacked one may have: a few KB can stand for gigabytes.
"""

import io
import zlib
from collections.abc import Callable, Mapping

import zstandard

from memproxy.errors import BodyTooLargeError

PIECE_BYTES = 256 * 1024

MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""What RFC 9659 lets a sender of zstd over HTTP use."""


def unpacked(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """The body without its content encoding; the same bytes where it has none, or one that can't be undone.

    Raises:
        BodyTooLargeError: it would be larger than `max_bytes`.
    """
    unpack = _UNPACK.get(encoding.strip().lower())
    if unpack is None:
        return body
    try:
        found = unpack(body, max_bytes + 1)
    except (zlib.error, zstandard.ZstdError, EOFError):
        return body
    if len(found) > max_bytes:
        raise BodyTooLargeError(f"The request body exceeds {max_bytes / 1_048_576:g} MB once it is unpacked.")
    return found


def _inflated(body: bytes, limit: int) -> bytes:
    """gzip, or zlib's own frame, which is what `deflate` means."""
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)
    found = unpacking.decompress(body, limit)
    if len(found) < limit and not unpacking.eof:
        raise EOFError
    return found


def _unzstd(body: bytes, limit: int) -> bytes:
    pieces, size = [], 0
    source = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
        io.BytesIO(body), read_across_frames=True
    )
    while size < limit and (piece := source.read(min(PIECE_BYTES, limit - size))):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


_UNPACK: Mapping[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflated,
    "x-gzip": _inflated,
    "deflate": _inflated,
    "zstd": _unzstd,
}
