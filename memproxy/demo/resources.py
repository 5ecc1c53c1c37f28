"""What the scripted model server answers at paths that need no script: models, embeddings, files, what arrived.

The first argument is the server, which none of these needs.
"""

import hashlib
import time

import msgspec

from memproxy.demo.bench_answers import BENCH_MODELS
from memproxy.demo.deliver import Delivery, whole
from memproxy.demo.provider_answers import embeddings_body, error_body, file_body, file_content, models_body
from memproxy.demo.provider_checks import ErrorObject, error_object, find_embeddings_fault
from memproxy.demo.script import ModelRequest

_MAX_FILE_BYTES = 64 * 1024 * 1024


def embeddings(_: object, request: ModelRequest) -> Delivery:
    """Vectors that depend on the words alone."""
    if fault := find_embeddings_fault(decoded(request)):
        return refusal(fault)
    return whole(embeddings_body(request.body))


def models(_: object, __: ModelRequest) -> Delivery:
    """The names of the bench models and one more."""
    return whole(models_body(("scripted", *BENCH_MODELS)))


def upload(_: object, request: ModelRequest) -> Delivery:
    """Size and SHA-256 of the whole body."""
    return whole(file_body(request.raw_body, created=int(time.time())))


def download(_: object, request: ModelRequest, size: str) -> Delivery:
    """Binary bytes, as many as asked for."""
    if int(size) > _MAX_FILE_BYTES:
        return refusal(error_object(f"No such File object: {request.path}", param="id"), status=404)
    return whole(file_content(int(size)), content_type=b"application/octet-stream")


def echo(_: object, request: ModelRequest) -> Delivery:
    """What arrived."""
    return whole(
        msgspec.json.encode(
            {
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "headers": request.headers,
                "body_bytes": len(request.raw_body),
                "body_sha256": hashlib.sha256(request.raw_body).hexdigest(),
            }
        )
    )


def decoded(request: ModelRequest) -> object:
    """The body as JSON of any type; None when it is not JSON."""
    try:
        return request.body or msgspec.json.decode(request.raw_body)
    except msgspec.DecodeError:
        return None


def refusal(error: ErrorObject, *, status: int = 400) -> Delivery:
    """An error of the provider's."""
    return whole(error_body(error), status=status)
