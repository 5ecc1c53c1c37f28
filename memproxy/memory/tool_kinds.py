"""What a tool does to the world, told from its own annotations or, failing that, from its name.

    read      looks something up: its result may be given again until something changes
    helper    changes nothing, and its result is not worth keeping, or changes by itself: calculate, get_current_time
    write     changes something
    unknown   nobody knows; treated as a write

A mistake in one direction costs a repeated call, in the other a wrong answer. So a name is a read only where nothing in
it speaks against that: one verb that writes is enough, wherever it stands (`get_and_delete`).
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

from memproxy.records import JsonObject


class ToolKind(enum.StrEnum):
    """What a tool does to the world."""

    READ = "read"
    HELPER = "helper"
    WRITE = "write"
    UNKNOWN = "unknown"

    @property
    def clears(self) -> bool:
        """After a call of it, kept results may be out of date."""
        return self in {ToolKind.WRITE, ToolKind.UNKNOWN}


READ_VERBS = frozenset(
    """
    browse cat check count describe discover enumerate explain explore fetch find get glob grep inspect list locate
    look lookup ls observe peek query read recall retrieve search show stat view
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
"""At the beginning of a name they say that it reads."""

QUESTIONS = frozenset({"are", "can", "does", "has", "have", "is", "may", "should", "was", "were"})
"""A name that begins with one asks about what follows: `can_cancel_order` cancels nothing."""

PLAIN_READ_VERBS = frozenset({"describe", "fetch", "find", "get", "lookup", "read", "retrieve", "search"})
"""Never anything but verbs of reading: they count in other places too, as in `slack_get_channel`, `web_search`. Not
`list` (`shopping_list`), nor `check` (`background_check`)."""

WRITE_VERBS = frozenset(
    """
    ack acknowledge activate add adjust alter append apply approve archive assign attach authorize ban book buy
    cancel checkin checkout clear click clone compose confirm connect consume copy create deactivate deauthorize
    decline decr decrement delete demote deny deploy dequeue destroy detach disable discard disconnect dismiss
    dispatch downgrade drag drop edit eject enable enqueue enroll erase escalate exchange exec execute fill finalize
    fix flush follow freeze grant incr increment ingest insert install invalidate invite invoke kick kill launch
    login logout mark modify mount move mutate mute notify overwrite pause pay perform persist pin pop press promote
    provision publish purchase purge put reactivate rebook reboot rebuild recreate redeem refund register reject
    relocate remove rename renew reopen repair replace reply repost reschedule reserve reset resize respond restart
    restore resubmit resume retry return revert revoke rollback rotate run save seed send set spawn submit subscribe
    suspend swap sync tap terminate toggle transfer truncate unban unblock undelete undo unfollow unfreeze uninstall
    unlink unlock unmount unmute unpin unpublish unregister unset unsubscribe untag update upgrade upload upsert
    vacate wipe withdraw write
    """.split()  # noqa: SIM905  as above
)
"""One of them anywhere in a name says that it writes. Some are nouns as well (`get_return_policy`): then a lookup is
not kept, and drops what is, which a policy can put right."""

NOUN_VERBS = frozenset(
    """
    ask block branch build call change charge claim close comment commit credit debit email export fork format
    forward import input issue link load lock log mail make merge message offer open order patch plan play post
    print process push rate record release report request resolve review schedule share sign signal start stop store
    stream switch tag test trade trigger try type vote wait
    """.split()  # noqa: SIM905  as above
)
"""Verbs that are mostly nouns behind a verb of reading (`get_order`, `list_pull_request_reviews`). They count at the
beginning of a name, and behind a word that joins two verbs (`find_and_order`)."""

JOINTS = frozenset({"and", "else", "n", "or", "plus", "then"})

HELPERS = frozenset({"calculate", "calculator", "reflect", "sequentialthinking", "think", "thinking"})

BY_THEMSELVES = frozenset(
    """
    captcha clock console guid inbox log logs metrics nonce notification notifications now otp output poll progress
    random screenshot snapshot status stderr stdout time today token unread uuid
    """.split()  # noqa: SIM905  as above
)
"""What changes without a call: agents ask for it again in order to see it change."""

NOT_LOOKUPS = frozenset({"approval", "confirmation", "consent", "feedback", "human", "input", "next"})
"""Objects that a verb of reading does not merely look up: `get_user_input` asks somebody, `get_next_job` takes it."""

LANGUAGES = frozenset(
    """
    bigquery clickhouse cypher database databases db duckdb graphql mongo mongodb mssql mysql neo4j oracle postgres
    postgresql redshift snowflake sql sqlite table tables warehouse
    """.split()  # noqa: SIM905  as above
)
"""What is queried in a language that can write as well: `query_database` may be told to DELETE."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SEGMENT = re.compile(r"__+|[./:]+")


def kind_by_annotations(definition: Mapping[str, Any] | None) -> ToolKind | None:
    """What the tool says of itself; None when it says nothing.

    Source: `ToolAnnotations` of the Model Context Protocol, as its clients pass them on, on the tool or its function. A
    tool that says how it writes (destructive or not, repeatable or not) is a write unless it says that it reads; one
    that says both is a write, too.
    """
    hints = _annotations(definition)
    reads, destroys = hints.get("readOnlyHint"), hints.get("destructiveHint")
    if reads is True and destroys is not True:
        return ToolKind.READ
    if isinstance(reads, bool) or isinstance(destroys, bool) or isinstance(hints.get("idempotentHint"), bool):
        return ToolKind.WRITE
    return None


def _annotations(definition: Mapping[str, Any] | None) -> JsonObject:
    tool = definition or {}
    function = tool.get("function")
    for holder in (tool, function if isinstance(function, dict) else {}):
        hints = holder.get("annotations")
        if isinstance(hints, dict):
            return hints
    return {}


def kind_by_name(name: str) -> ToolKind:
    """What the tool's name says that it does."""
    if not name.isascii():
        return ToolKind.UNKNOWN
    server, words = _words(name)
    if not words:
        return ToolKind.UNKNOWN
    is_joined = not JOINTS.isdisjoint(words)
    if words[0] in QUESTIONS and not is_joined:
        return ToolKind.READ if BY_THEMSELVES.isdisjoint(words) else ToolKind.HELPER
    if _writes([*server, *words], words):
        return ToolKind.WRITE
    if words[0] in HELPERS and not is_joined:
        return ToolKind.HELPER
    if not _reads(words):
        return ToolKind.UNKNOWN
    return ToolKind.READ if changes_only_by_calls(name) else ToolKind.HELPER


def changes_only_by_calls(name: str) -> bool:
    """Nothing in the name says that its result becomes another one by itself."""
    return BY_THEMSELVES.isdisjoint(_words(name)[1])


def _words(name: str) -> tuple[list[str], list[str]]:
    """The words of a tool's name in lower case: of what stands before it, and its own.

    `mcp__files__read_text` is the tool `read_text`; what its server is called means nothing. In `files.read_text` what
    stands before may be the server, or a verb: it must not speak against reading.
    """
    segments = [segment for segment in _SEGMENT.split(name) if segment]
    if len(segments) > 2 and segments[0] == "mcp" and name.startswith("mcp__"):
        segments = segments[2:]
    words = [[word.lower() for word in _WORD.findall(segment)] for segment in segments]
    return [word for before in words[:-1] for word in before], words[-1] if words else []


def _writes(everything: Sequence[str], words: Sequence[str]) -> bool:
    if not WRITE_VERBS.isdisjoint(everything) or words[0] in NOUN_VERBS:
        return True
    if words[0] == "check" and words[1:2] and words[1] in {"in", "off", "out"}:
        return True
    joint = next((at for at, word in enumerate(words) if word in JOINTS), len(words))
    return not NOUN_VERBS.isdisjoint(words[joint:])


def _reads(words: Sequence[str]) -> bool:
    """A verb of reading leads, or stands further back and is plain; and what it reads can be looked up."""
    if not NOT_LOOKUPS.isdisjoint(words) or words == ["query"]:
        return False
    if words[1:2] and words[1] in JOINTS and not READ_VERBS.issuperset(words[2:3]):
        return False  # `find_and_prune`: what is joined to a verb is one, known or not
    if "query" in words and not LANGUAGES.isdisjoint(words):
        return False
    return words[0] in READ_VERBS or any(word in PLAIN_READ_VERBS for word in words)
