"""Whether a tool's result may be given again: it says something, it is no error, and it is finished.

Tools report failure as they please, so this looks where failures are reported: at flags and codes of a JSON object, and
at the beginning of a text. A record that merely speaks of an error in one of its fields is a result like any other.
When in doubt it is an error: one that is kept would be repeated after its cause is gone, a result that is not kept
costs one call.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

ERROR_FIELDS = frozenset(
    {
        "err", "error", "error_code", "error_message", "error_type", "errorcode", "errormessage", "errors", "errortype",
        "exception", "failure", "fault", "stacktrace", "traceback",
    }
)  # fmt: skip
"""Fields that hold a failure unless they are empty."""

ERROR_FLAGS = frozenset({"has_error", "haserror", "is_error", "iserror", "failed", "timed_out", "timedout"})
SUCCESS_FLAGS = frozenset({"is_success", "issuccess", "ok", "succeeded", "success", "successful"})
EXIT_CODES = frozenset({"exit_code", "exitcode", "exit_status", "return_code", "returncode"})
HTTP_CODES = frozenset({"code", "http_code", "http_status", "httpstatus", "status", "status_code", "statuscode"})

BAD_STATES = frozenset(
    """
    access_denied bad_request crashed err error errored exception fail failed failure fatal forbidden
    internal_error invalid not_found notfound rate_limited timed_out timedout timeout unauthenticated unauthorized
    unavailable
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
UNFINISHED_STATES = frozenset(
    """
    building deploying downloading in_progress initializing inprogress loading processing provisioning queued retrying
    running starting stopping uploading waiting working
    """.split()  # noqa: SIM905  as above
)
"""States that pass by themselves: who asks again wants to see whether they have."""

NOTHING = frozenset({"", "n/a", "nil", "none", "null", "undefined"})
NO_ERROR = NOTHING | {"0", "false", "no", "no error", "ok", "success"}
"""What stands in an error's field when there is none."""

WRAPPERS = frozenset(
    {
        "content", "data", "entries", "hits", "items", "matches", "output", "payload", "records", "response", "result",
        "results", "rows", "structuredcontent", "text", "value", "values",
    }
)  # fmt: skip
"""Fields that hold the actual result."""

ENVELOPE = frozenset(
    {
        "code", "detail", "details", "error_description", "instance", "message", "msg", "path", "reason", "request_id",
        "requestid", "status", "statuscode", "status_code", "timestamp", "title", "trace_id", "traceid", "type",
    }
)  # fmt: skip
"""An object of nothing but these is a notice, so its words count."""

MAX_DEPTH = 4
"""How far wrappers are opened; real ones are two or three deep."""

HEAD_CHARS = 400
"""Of a text, so much is its beginning. Bounds the time that matching takes."""

_FAILURE = re.compile(
    r"""\W{0,20}(?:the\s|a\s|an\s|there\swas\s(?:a|an)\s|sorry\b|oops\b)?\W{0,5}(?:
        (?:[\w.-]+\.)?\w*(?:error|exception)\b | traceback | fail(?:ed|ure)?\b | fatal\b | panic\b | abort(?:ed)?\b |
        time(?:d\s|-)?\s?out\b | deadline\sexceeded | unauthori[sz]ed | unauthenticated | forbidden | access\sdenied |
        permission\sdenied |
        not\s(?:found|authori[sz]ed|authenticated|allowed|permitted|available|implemented|supported) |
        no\s(?:such|results?|match(?:es|ing)?|data|records?|entries|items|rows?|output|response|content|files?)\b |
        nothing\s(?:was\s)?found | unable\sto | can(?:not|'t|\snot)\b | could\s?n(?:o|')t\b | did\s?n(?:o|')t\b |
        invalid\b | illegal\b | unknown\b | unexpected\b | missing\b | malformed\b | bad\s(?:request|gateway) |
        internal\sserver | service\s(?:temporarily\s)?unavailable | gateway\stime | too\smany\srequests | rate\slimit |
        quota\sexceeded | connection\s(?:refused|reset|closed|aborted|timed) | (?:network|host)\s(?:is\s)?unreachable |
        broken\spipe | command\s(?:not\sfound|failed) | http(?:/[\d.]+)?\s*(?:status|code|error)?\W{0,2}[45]\d\d\b |
        (?:status|error)(?:\s+code)?\W{0,2}[45]\d\d\b | [45]\d\d\s(?:client|server|bad|unauth|forb|not\s|conf|unproc|
        too|internal|service|gateway|error) | (?:process\s)?exit(?:ed)?\s(?:with\s)?(?:code|status)\W{0,2}[1-9] |
        (?:[\w-]+\s){0,3}(?:error|exception)\s?(?:\#|code\b)?\s?[:=]?\s?-?\d+ | oops\b | input\svalidation |
        \w*error_?\w*\s?[:=] | \w+_(?:not_found|failed|error|exists)\b |
        e(?:noent|acces|conn[a-z]+|timedout|perm|pipe)\b |
        no\s(?:\w+\s){1,4}(?:was\s|were\s)?(?:found|available|match(?:es|ed)?)\b |
        i\s(?:could\s?n(?:o|')t|ca(?:nnot|n't)|was\snot\sable|am\sunable)\b |
        fehler | erreur | errore\b | ошибка | 错误 | 失败 | エラー | 오류
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""How texts of failures begin."""

_FAILING_SENTENCE = re.compile(
    r"""[^.:;!\n]{0,80}?\b(?:
        (?:has\s|have\s)?(?:failed|timed\sout|crashed)\s*(?:[.:;!(\n-]|$|to\b|with\b|because\b|due\b|after\b) |
        (?:error|exception|failure)\s*(?:[:!(]|$|occurred|while\b) | errored\b |
        (?:was|were|is|are|be)\s?n(?:ot|'t)\s(?:be\s)?(?:found|available|allowed|permitted|authori[sz]ed|reachable) |
        not\sfound\s*(?:[.:;!(\n]|$) | does\s?n(?:ot|'t)\sexist | (?:is|currently)\sunavailable |
        (?:status|exit)\scode\W{0,2}(?:[45]\d\d|[1-9]\d?)\b
    ) | [^\n]{0,200}?(?:
        :\s(?:command\snot\sfound|no\ssuch\sfile|permission\sdenied|not\sa\sdirectory|is\sa\sdirectory) |
        :\s\(\d+\)\s(?:failed|could\snot|timeout|connection)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""A first sentence that reports a failure: "Speed test failed: no connection", "Plan P9 not found"."""

_ERROR_PAGE = re.compile(r"\s*<(?:!doctype|html)[^\0]{0,2000}<title>\s*(?:[45]\d\d\b|[^<]{0,40}\berror)", re.IGNORECASE)


def is_cacheable_result(content: object) -> bool:
    """Whether the content of a tool message may be given again.

    `content` is text or a list of parts. In a list every text must be sound; other parts, such as images, always are.
    """
    if isinstance(content, str):
        return _is_sound_text(content, 0)
    if not isinstance(content, list) or not content:
        return False
    texts = [text for part in content if (text := _text_of(part)) is not None]
    if not all(not text.strip() or _is_sound_text(text, 0) for text in texts):
        return False
    return len(texts) < len(content) or _is_sound_text("".join(texts), 0)


def _text_of(part: object) -> str | None:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else None


def _is_sound_text(text: str, depth: int) -> bool:
    bare = text.strip()
    if bare.lower() in NOTHING:
        return False
    if bare[0] in '{["':
        try:
            return _is_sound_value(json.loads(bare), depth)
        except (ValueError, RecursionError):
            pass  # looks like JSON and is not
    return not (_begins_as_failure(bare) or _ERROR_PAGE.match(bare))


def _begins_as_failure(text: str) -> bool:
    head = text[:HEAD_CHARS]
    return bool(_FAILURE.match(head) or _FAILING_SENTENCE.match(head))


def _is_sound_value(value: Any, depth: int) -> bool:
    match value:
        case str():
            return _is_sound_text(value, depth + 1) if depth < MAX_DEPTH else bool(value.strip())
        case dict():
            return bool(value) and _is_sound_object(value, depth)
        case list():
            return not all(map(_is_empty, value)) and all(_is_sound_item(item, depth) for item in value)
        case _:
            return value is not None


def _is_sound_item(item: Any, depth: int) -> bool:
    """One of several: a record among others may be in a bad state, but not an error itself."""
    if isinstance(item, dict):
        fields = _folded(item)
        text = fields.get("text") if fields.get("type") == "text" else None
        return not _reports_error(fields) and (not isinstance(text, str) or _is_sound_value(text, depth))
    return not isinstance(item, str) or not item.strip() or _is_sound_text(item, MAX_DEPTH)


def _is_sound_object(value: Mapping[str, Any], depth: int) -> bool:
    fields = _folded(value)
    if _reports_error(fields) or _is_in_bad_state(fields):
        return False
    if all(_is_empty(inner) for inner in fields.values()):
        return False
    if fields.keys() <= ENVELOPE:
        words = [text for text in fields.values() if isinstance(text, str)]
        return not any(map(_begins_as_failure, words))
    wrapped = [inner for name, inner in fields.items() if name in WRAPPERS]
    return depth >= MAX_DEPTH or all(_is_sound_inside(inner, depth + 1) for inner in wrapped)


def _is_sound_inside(inner: Any, depth: int) -> bool:
    """What a wrapper holds. Text in it may be anything that somebody wrote, so only failures at its beginning count."""
    if isinstance(inner, str):
        return not _is_empty(inner) and not _FAILURE.match(inner[:HEAD_CHARS])
    return _is_sound_value(inner, depth)


def _folded(value: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).lower().replace("-", "_"): inner for name, inner in value.items()}


def _reports_error(fields: Mapping[str, Any]) -> bool:
    for name, value in fields.items():
        word = value.strip().lower() if isinstance(value, str) else None
        is_false = value is False or value == 0
        if name in ERROR_FIELDS and not (_is_empty(value) or is_false or word in NO_ERROR):
            return True
        if name in ERROR_FLAGS and (value is True or word in {"true", "yes"}):
            return True
        if name in SUCCESS_FLAGS and (is_false or word in {"false", "no"}):
            return True
    return fields.get("type") in ("error", "exception") or ("jsonrpc" in fields and "result" not in fields)


def _is_in_bad_state(fields: Mapping[str, Any]) -> bool:
    for name, value in fields.items():
        if name in HTTP_CODES and 400 <= _as_number(value) < 600:
            return True
        if name in EXIT_CODES and _as_number(value) != 0:
            return True
    code, state = fields.get("code"), fields.get("status", fields.get("state"))
    if isinstance(code, int) and code < 0 and "message" in fields:
        return True  # as JSON-RPC numbers its errors
    word = re.sub(r"[\s-]+", "_", state.strip().lower()) if isinstance(state, str) else ""
    return word in BAD_STATES or word in UNFINISHED_STATES


def _as_number(value: Any) -> float:
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"-?\d{1,9}", value.strip()) else 0
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _is_empty(value: Any) -> bool:
    return value is None or (
        isinstance(value, str | list | dict) and not (value.strip() if isinstance(value, str) else value)
    )
