"""What was done to a request: in its response's headers, and in full under its id. The newest are kept at hand."""

import time
from collections import OrderedDict
from urllib.parse import quote

from memproxy.proxy.answer import Answering
from memproxy.proxy.stages import Inbound, Outbound, Remembered
from memproxy.records import JsonObject
from memproxy.wire.answer_facts import token_counts
from memproxy.wire.dialect import Answer

KEPT = 1_000
"""Receipts per process; older ones are read from the store."""


class Receipts:
    """A bounded map from tenant and request id to what was done."""

    def __init__(self) -> None:
        self._receipts: OrderedDict[tuple[str, str], JsonObject] = OrderedDict()

    def put(self, tenant: str, request_id: str, receipt: JsonObject) -> None:
        """Keep a receipt; the oldest goes."""
        self._receipts[tenant, request_id] = receipt
        if len(self._receipts) > KEPT:
            self._receipts.popitem(last=False)

    def get(self, tenant: str, request_id: str) -> JsonObject | None:
        """The receipt of this tenant's request."""
        return self._receipts.get((tenant, request_id))


def receipt_headers(inbound: Inbound, outbound: Outbound, inside: Answering) -> list[tuple[bytes, bytes]]:
    """The `x-memproxy-*` headers of the response. Values are latin-1; what does not fit is percent-encoded."""
    headers = [(b"x-memproxy-request-id", inbound.id.encode())]
    known = outbound.remembered
    if known is not None:
        headers += [
            (b"x-memproxy-session", quote(known.key.session, safe=_PLAIN).encode("latin-1", "replace")),
            (b"x-memproxy-identity", known.claims.rule.encode()),
            (b"x-memproxy-memories", str(injected(outbound)).encode()),
            (b"x-memproxy-tool-answers", str(len(inside.answers)).encode()),
        ]
    if outbound.degraded:
        headers.append((b"x-memproxy-degraded", ",".join(dict.fromkeys(outbound.degraded)).encode()))
    return headers


_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def injected(outbound: Outbound) -> int:
    """Memories that the request carries for the first time."""
    return len(outbound.placement.pin.memories) if outbound.placement else 0


def receipt_of(inbound: Inbound, outbound: Outbound) -> JsonObject:
    """The full receipt, as far as it is known when the request goes out. Holds no message text but the block's own."""
    receipt: JsonObject = {
        "request_id": inbound.id,
        "at": inbound.at,
        "bytes_in": len(inbound.body),
        "bytes_out": len(outbound.body),
        "unchanged": outbound.body is inbound.body,
        "degraded": list(dict.fromkeys(outbound.degraded)),
        "prepare_seconds": round(time.monotonic() - inbound.began_s, 6),
    }
    if outbound.reason:
        receipt["memory_left_out"] = outbound.reason
    if outbound.remembered is not None:
        receipt |= _memory_receipt(outbound, outbound.remembered)
    return receipt


def usage_receipt(answer: Answer) -> JsonObject:
    """What the answer cost, as its provider told it, and the same in words that all formats share."""
    told = token_counts(answer.usage)
    tokens = {"prompt": told.prompt, "cached": told.cached, "completion": told.completion}
    return {"usage": answer.usage, "tokens": tokens if answer.usage else None}


def answered_receipt(inside: Answering) -> JsonObject:
    """The calls that were answered here, and how old each result was."""
    return {
        "tool_answers": [
            {"tool": answer.call.name, "source": answer.source, "age_s": answer.age_s} for answer in inside.answers
        ],
        "rounds_inside": inside.rounds,
    }


def _memory_receipt(outbound: Outbound, known: Remembered) -> JsonObject:
    placement, chosen = outbound.placement, set(outbound.placement.pin.memories if outbound.placement else ())
    return {
        "identity": {
            "user": known.scope.user,
            "session": known.key.session,
            "thread": known.key.thread or None,
            "namespace": known.scope.namespace,
            "rule": known.claims.rule,
        },
        "memory": known.mode,
        "model": known.request.model,
        "alignment": {
            "shape": known.alignment.shape,
            "stored_before": known.session.length if known.session else 0,
            "restored": len(outbound.history),
            "new": len(known.alignment.known) - sum(known.alignment.known),
            "branches": known.alignment.branches,
        },
        "cut": {"position": outbound.cut.position, "note": outbound.cut.note} if outbound.cut.position else None,
        "memories": [
            {
                "id": memory.record.id,
                "type": memory.record.type,
                "injected": memory.record.id in chosen,
                "score": round(memory.score, 4),
                "text_score": round(memory.text_score, 4),
                "vector_score": round(memory.vector_score, 4),
            }
            for memory in outbound.found
        ],
        "injected": {"at_message": placement.index, "block": placement.pin.block} if placement else None,
        "replayed": len(known.session.pins) if known.session else 0,
    }
