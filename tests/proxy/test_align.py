"""Alignment against simulated clients: whatever they send of a conversation, it is kept once, whole, and in order.

`Log` does to a session what recording does: look it up as the store does, align, append or branch. The clients below
send what real ones send: everything, the newest message, a window, a compacted or an edited history; and their turns
fail, break off and are repeated.

Some requests are ambiguous by nature; the strategies leave them out, each where it says so:

* A newest-only client repeats the words of its last message, which is still unanswered: a retry or a new message?
  Read as a retry.
* A client of whole histories asks for another answer to its first message before it ever sent an earlier one again:
  that, or a newest-only client repeating itself? Read as the repetition; once a client has resent, it is known.
* A client of whole histories changes its very first message: an edit, or the newest message of another client?
  Read as the newest message.
* The very first turn fails, and the client forgets it: a new beginning, or another client's newest message? Read as the
  newest message, so that the failed one stays.
* A window begins with the words that the conversation began with and holds no answer: a window or a return to the
  start? Read as the return.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.proxy.align import Alignment, Entry, Shape, align, align_chained, finished_length
from memproxy.storage.working import MAX_PREFIXES

quick = settings(max_examples=120, deadline=None)


@dataclass(frozen=True)
class Said:
    """One message: `u` by the user, `a` an answer, `t` a tool's result."""

    role: str
    words: str
    is_partial: bool = False

    @property
    def entry(self) -> Entry:
        digest = blake2b(f"{self.role[0]} {self.words}".encode(), digest_size=16).digest()
        return Entry(digest, is_answer=self.role == "a", is_partial=self.is_partial, is_user=self.role == "u")

    @property
    def plain(self) -> "Said":
        """As a client has it, which knows nothing of what broke off."""
        return Said(self.role, self.words)


def said(words: str) -> list[Said]:
    """`u:hi a:hello a:broken?` as messages; a question mark at the end says that it broke off."""
    parts = [part.partition(":") for part in words.split()]
    return [Said(role, text.rstrip("?"), is_partial=text.endswith("?")) for role, _, text in parts]


def aligned(stored: str, incoming: str, *, sends_newest: bool = False, is_retry: bool = False) -> Alignment:
    return align(entries(said(stored)), entries(said(incoming)), sends_newest=sends_newest, is_retry=is_retry)


def entries(messages: Sequence[Said]) -> list[Entry]:
    return [message.entry for message in messages]


def plain(messages: Sequence[Said]) -> list[Said]:
    return [message.plain for message in messages]


@dataclass
class Log:
    """A named session with its threads, and what was learned from it."""

    threads: list[list[Said]] = field(default_factory=lambda: [[]])
    current: int = 0
    pointers: dict[tuple[Said, ...], tuple[int, int]] = field(default_factory=dict)
    resends: set[int] = field(default_factory=set)
    learned: list[Said] = field(default_factory=list)

    def find(self, incoming: Sequence[Said]) -> int:
        """The thread in which the conversation is looked for, as `load_session.lua` chooses it."""
        ends = [end for end in range(len(incoming), 0, -1) if incoming[end - 1].role == "a"]
        for end in ends[:MAX_PREFIXES]:
            if tuple(incoming[:end]) in self.pointers:
                return self.pointers[tuple(incoming[:end])][0]
        return self.current

    def take(self, incoming: Sequence[Said], answer: Said | None, *, is_retry: bool = False) -> Alignment:
        """One exchange from its request to its recording; what must hold for every client is checked here."""
        thread = self.find(incoming)
        stored = self.threads[thread]
        found = align(entries(stored), entries(incoming), sends_newest=thread not in self.resends, is_retry=is_retry)
        check(found, stored, incoming, is_retry=is_retry)
        new = [message for message, at in zip(incoming, found.positions, strict=True) if at is not None]
        new = new[sum(at is not None and at < found.keep for at in found.positions) :]
        log = [*stored[: found.keep], *new, *([answer] if answer else [])]
        if found.branches and stored:
            self.threads.append(log)
            thread = len(self.threads) - 1
        else:
            self.threads[thread] = log
        self.current = thread
        self.learned += [
            message
            for message, at, known in zip(incoming, found.positions, found.known, strict=True)
            if at is not None and at >= found.keep and not known
        ]
        if answer and not answer.is_partial and found.head == 0 and None not in found.positions:
            self.pointers[(*incoming, answer)] = (thread, len(log))
        if not found.head and any(found.known):
            self.resends.add(thread)
        return found

    @property
    def log(self) -> list[Said]:
        return plain(self.threads[self.current])


def check(found: Alignment, stored: Sequence[Said], incoming: Sequence[Said], *, is_retry: bool) -> None:
    """What holds for any log and any request, however odd."""
    places = [at for at in found.positions if at is not None]
    assert len(found.positions) == len(found.known) == len(incoming)
    assert found.positions == (None,) * (len(incoming) - len(places)) + tuple(places), "only a beginning is outside"
    assert places == list(range(places[0], places[0] + len(places))) if places else True
    assert 0 <= found.head <= found.keep <= len(stored)

    overlap = [message for message, at in zip(incoming, found.positions, strict=True) if at is not None]
    overlap = overlap[: found.keep - places[0]] if places else []
    assert entries(overlap) == unmarked(stored[found.keep - len(overlap) : found.keep]), "what is matched is equal"
    if found.shape is Shape.COMPACTED:
        assert found.positions[0] is None, "something was replaced"
    else:
        after = [*plain(stored[: found.keep]), *incoming[found.keep - found.head :]]
        assert after == [*plain(stored[: found.head]), *incoming], "the log holds what was sent: nothing twice"

    seen = {message.plain for message in stored}
    told = zip(incoming, found.known, found.positions, strict=True)
    assert all(message in seen for message, known, at in told if known and at is not None)
    if not found.branches:
        is_answered = is_retry and stored[-2:-1] and incoming and stored[-2].plain == incoming[-1]
        finished = stored[:-1] if is_answered else stored
        assert found.keep >= finished_length(entries(finished)), "in place, only what is unfinished is replaced"


def unmarked(messages: Sequence[Said]) -> list[Entry]:
    return entries(plain(messages))


# What holds for all logs and requests


words = st.sampled_from(["yes", "ok", "hi", "more"])
messages = st.builds(Said, st.sampled_from("uat"), words)
logs = st.lists(st.builds(Said, st.sampled_from("uat"), words, is_partial=st.booleans()), max_size=9).map(
    lambda log: [message if message.role == "a" else message.plain for message in log]
)


@quick
@given(logs, st.lists(messages, max_size=7), st.booleans(), st.booleans())
def test_no_request_of_any_form_doubles_or_loses_a_message(
    log: list[Said], incoming: list[Said], sends_newest: bool, is_retry: bool
) -> None:
    """Conversations full of "yes" and "ok" stay as they were said, even when it can't be known what a client meant."""
    found = align(entries(log), entries(incoming), sends_newest=sends_newest, is_retry=is_retry)
    check(found, log, incoming, is_retry=is_retry)


@quick
@given(logs, st.lists(messages, min_size=1, max_size=5))
def test_a_log_followed_by_anything_is_a_whole_history(log: list[Said], new: list[Said]) -> None:
    """The common case, agents that resend everything, is never mistaken for another one, however much is repeated."""
    found = align(entries(log), entries([*plain(log), *new]), sends_newest=False)
    assert (found.shape, found.head, found.keep, found.branches) == (Shape.WHOLE, 0, len(log), False)
    assert found.known == (True,) * len(log) + (False,) * len(new)
    assert found.new_from == len(log)


# Clients


@dataclass(frozen=True)
class Step:
    """One turn of a user and how it goes."""

    words: str
    ending: str
    """answered, broken (part of the answer arrives), failed (none), lost (answered, but the client didn't get it)."""
    keeps: bool
    """What a client does with the remains of a failed or broken turn: keep them in its history or drop them."""
    tools: int
    """Rounds of tool calls before the answer."""
    number: int = 0


endings = st.sampled_from(["answered"] * 5 + ["broken", "failed", "lost"])
a_step = st.builds(
    Step, st.sampled_from(["yes", "ok", "hi", ""]), endings, st.booleans(), st.sampled_from([0, 0, 1, 2])
)


def number(steps: list[Step]) -> list[Step]:
    """Steps whose empty words are made unique; those of turns that go wrong, too (see the ambiguities above)."""
    return [
        replace(
            step,
            words=step.words if step.words and step.ending == "answered" else f"{step.words}{at}",
            keeps=step.keeps or at == 0,
            number=at,
        )
        for at, step in enumerate(steps)
    ]


conversations = st.lists(a_step, min_size=1, max_size=9).map(number)


def tool_round(step: Step, round_: int) -> tuple[Said, Said]:
    """A call and its result; results such as "done" repeat."""
    return Said("a", f"call {step.number}.{round_}"), Said("t", "done")


class Sender:
    """A client: keeps a history of its own and sends what `window` says of it."""

    def __init__(self, log: Log, window: int | None) -> None:
        self.log = log
        self.window = window
        self.history: list[Said] = []
        self.shapes: list[Shape] = []
        self.new: list[int] = []

    def send(self, new: Sequence[Said], answer: Said | None, *, is_retry: bool = False) -> Alignment:
        start = 0 if self.window is None else max(0, len(self.history) - self.window)
        before = len(self.log.threads[self.log.find([*self.history[start:], *new])])
        found = self.log.take([*self.history[start:], *new], answer, is_retry=is_retry)
        assert self.log.log == [*self.history, *new, *([answer.plain] if answer else [])], (found, before)
        self.shapes.append(found.shape)
        return found

    def turn(self, step: Step) -> None:
        new = [Said("u", step.words)]
        for round_ in range(step.tools):
            call, result = tool_round(step, round_)
            self.send(new, call)
            self.history += [*new, call]
            new = [result]
        answer = Said("a", f"answer {step.number}")
        if step.ending == "answered":
            self.send(new, answer)
            self.history += [*new, answer]
        elif step.ending == "lost":
            self.send(new, answer)
            again = Said("a", f"answer {step.number} again")
            self.send(new, again, is_retry=True)
            self.history += [*new, again]
        else:
            part = Said("a", f"part {step.number}", is_partial=True) if step.ending == "broken" else None
            self.send(new, part)
            if step.keeps:
                self.history += [*new, *([part.plain] if part else [])]


@quick
@given(conversations)
def test_a_client_of_whole_histories_is_understood_whatever_fails(steps: list[Step]) -> None:
    """Agents that resend everything find every message once, in one thread, through failures and retries."""
    log = Log()
    client = Sender(log, None)
    for step in steps:
        client.turn(step)
    assert set(client.shapes) <= {Shape.WHOLE}
    assert len(log.threads) == 1
    users = [message for message in log.learned if message.role == "u"]
    assert [message.words for message in users] == [step.words for step in steps], "each learned from once"


@quick
@given(conversations, st.integers(min_value=1, max_value=6))
def test_a_window_finds_its_missing_head(steps: list[Step], size: int) -> None:
    """An agent that forgets all but its last messages still has its whole conversation before the model."""
    first, *others = steps
    log = Log()
    client = Sender(log, size)
    for step in [Step("the beginning", "answered", keeps=True, tools=first.tools, number=-1), *others]:
        client.turn(step)
    assert set(client.shapes) <= {Shape.WHOLE, Shape.WINDOW}
    assert len(log.threads) == 1
    assert len([message for message in log.learned if message.role == "u"]) == len(steps)


@quick
@given(conversations)
def test_a_client_of_newest_messages_gets_its_history(steps: list[Step]) -> None:
    """`requests.post` of one message at a time is a conversation all the same."""
    log = Log()
    spoken: list[Said] = []
    for step in steps:
        new = [Said("u", step.words)]
        for round_ in range(step.tools):
            call, result = tool_round(step, round_)
            found = log.take(new, call)
            assert found.head == len(spoken)
            assert found.shape is (Shape.NEWEST if spoken else Shape.WHOLE)
            spoken += [*new, call]
            new = [result]
        answer = Said("a", f"answer {step.number}", is_partial=step.ending == "broken")
        found = log.take(new, None if step.ending == "failed" else answer)
        assert found.head == len(spoken)
        assert found.shape is (Shape.NEWEST if spoken else Shape.WHOLE)
        if step.ending == "lost":
            answer = Said("a", f"answer {step.number} again")
            found = log.take(new, answer, is_retry=True)
            assert found.head == len(spoken)
        spoken += [*new, *([] if step.ending == "failed" else [answer.plain])]
        assert log.log == spoken
    assert len(log.threads) == 1
    assert len([message for message in log.learned if message.role == "u"]) == len(steps)


@quick
@given(conversations, st.data())
def test_a_compacted_history_goes_on_in_the_same_log(steps: list[Step], data: st.DataObject) -> None:
    """After an agent's "compact", nothing that was said is lost, and its summary is not taken for words of the user."""
    log = Log()
    client = Sender(log, None)
    for step in steps:
        client.turn(step)
    full = list(client.history)
    answers = [at for at, message in enumerate(full) if message.role == "a" and message.words.startswith("answer")]
    if not answers:
        return
    start = data.draw(st.integers(min_value=1, max_value=answers[-1])) if answers[-1] else 0
    shorter = [Said("u", "summary: all that was"), *full[start:]]
    for at in range(3):
        new = Said("u", f"onward {at}")
        answer = Said("a", f"and on {at}")
        found = log.take([*shorter, new], answer)
        assert (found.shape, found.head, found.branches) == (Shape.COMPACTED, 0, False)
        assert found.positions[0] is None
        shorter += [new, answer]
        full += [new, answer]
        assert log.log == full
    assert not any(message.words.startswith("summary") for message in log.learned)


@quick
@given(conversations, st.data())
def test_an_edited_history_wins_and_the_old_one_stays(steps: list[Step], data: st.DataObject) -> None:
    """Changing an earlier message or asking for another answer begins a branch: nothing of the old one is in it."""
    log = Log()
    client = Sender(log, None)
    for step in steps:
        client.turn(step)
    old = [list(thread) for thread in log.threads]
    users = [at for at, message in enumerate(client.history) if message.role == "u" and at]
    if not users:
        return
    for at in range(data.draw(st.integers(min_value=1, max_value=3))):
        place = data.draw(st.sampled_from(users))
        same = data.draw(st.booleans())
        new = client.history[place] if same else Said("u", f"changed {at}")
        client.history = client.history[:place]
        found = client.send([new], Said("a", f"after the change {at}"))
        assert found.shape in {Shape.EDITED, Shape.WHOLE}
        assert found.head == 0
        client.history += [new, Said("a", f"after the change {at}")]
        users = [place for place in users if place < len(client.history)]
    finished = [thread[: finished_length(entries(thread))] for thread in old]
    assert all(any(thread[: len(kept)] == kept for thread in log.threads) for kept in finished)


@quick
@given(conversations, st.data())
def test_an_edit_inside_a_window_keeps_the_head_before_it(steps: list[Step], data: st.DataObject) -> None:
    """A windowed client that edits its last messages still has everything before them."""
    log = Log()
    client = Sender(log, None)
    client.turn(Step("the beginning", "answered", keeps=True, tools=0, number=-1))
    for step in steps:
        client.turn(step)
    history = client.history
    edits = [at for at, message in enumerate(history) if message.role == "u" and at >= 4]
    if not edits:
        return
    place = data.draw(st.sampled_from(edits))
    start = data.draw(st.integers(min_value=1, max_value=place - 2))
    kept = history[start:place]
    if not any(message.role == "a" for message in kept):
        return
    log.pointers.clear()
    found = log.take([*kept, Said("u", "changed")], Said("a", "after the change"))
    assert found.head == start
    assert log.log == [*history[:place], Said("u", "changed"), Said("a", "after the change")]


# One at a time


@pytest.mark.parametrize(
    ("stored", "incoming", "shape", "head", "keep"),
    [
        ("", "u:hi", Shape.WHOLE, 0, 0),
        ("u:hi a:hello", "u:hi a:hello u:more", Shape.WHOLE, 0, 2),
        ("u:hi a:hello", "u:more", Shape.NEWEST, 2, 2),
        ("u:hi a:hello u:more a:well", "a:well u:on", Shape.WINDOW, 3, 4),
        ("u:hi a:hello u:more a:well", "u:sum a:hello u:more a:well u:on", Shape.COMPACTED, 0, 4),
        ("u:hi a:hello u:more a:well", "u:hi a:hello u:less", Shape.EDITED, 0, 2),
        ("u:hi a:hello u:more a:well", "u:hi a:hello u:more", Shape.EDITED, 0, 3),
        ("u:hi a:hello", "u:other a:thing u:on", Shape.FOREIGN, 0, 0),
    ],
)
def test_each_way_of_sending_is_told_apart(stored: str, incoming: str, shape: Shape, head: int, keep: int) -> None:
    """What memproxy does with a request depends on this one decision."""
    found = aligned(stored, incoming)
    assert (found.shape, found.head, found.keep) == (shape, head, keep)
    assert found.branches == (shape in {Shape.EDITED, Shape.FOREIGN})


def test_an_unanswered_end_is_replaced_in_place() -> None:
    """After an error the user says it otherwise; the log is not split in two for it."""
    found = aligned("u:hi a:hello u:mroe", "u:hi a:hello u:more")
    assert (found.shape, found.keep, found.branches) == (Shape.WHOLE, 2, False)
    found = aligned("u:hi a:hello u:mroe", "a:hello u:more")
    assert (found.shape, found.head, found.keep, found.branches) == (Shape.WINDOW, 1, 2, False)


def test_a_broken_off_answer_is_replaced_by_the_next_attempt() -> None:
    """A stream that broke and was asked again leaves one answer, not one and a half."""
    for incoming in ("u:hi a:hello u:more", "u:more"):
        found = aligned("u:hi a:hello u:more a:we?", incoming)
        assert (found.keep, found.branches, found.new_from) == (3, False, len(said(incoming)))


def test_a_window_may_have_kept_only_some_of_what_broke_off() -> None:
    """Two broken answers in a row, one of them kept by the client, do not cost it its conversation."""
    found = aligned("u:hi a:hello u:more a:we? u:well a:no?", "a:we u:on")
    assert (found.shape, found.head, found.keep, found.branches) == (Shape.WINDOW, 3, 4, False)


def test_a_retry_replaces_the_answer_that_got_lost() -> None:
    """The SDK asks again when its connection broke; the user saw one answer, so the log holds one."""
    for incoming in ("u:hi a:hello u:more", "a:hello u:more", "u:more"):
        found = aligned("u:hi a:hello u:more a:well", incoming, is_retry=True)
        assert (found.keep, found.branches) == (3, False)
        assert found.known == (True,) * len(said(incoming))


def test_a_retry_of_something_new_drops_no_answer() -> None:
    """When the first attempt never arrived, the retry is just the next message, whatever was answered meanwhile."""
    for incoming in ("u:hi a:hello u:more", "u:more"):
        found = aligned("u:hi a:hello", incoming, is_retry=True)
        assert (found.keep, found.branches) == (2, False)
    found = aligned("u:hi a:hello u:else a:done", "u:hi a:hello u:more", is_retry=True)
    assert (found.keep, found.branches) == (2, True)


def test_a_window_that_begins_like_the_conversation_is_a_window() -> None:
    """Saying "hi" again weeks later does not throw a windowed client back to its first day."""
    found = aligned("u:hi a:hello u:order a:done u:hi a:welcome-back", "u:hi a:welcome-back u:more")
    assert (found.shape, found.head, found.keep) == (Shape.WINDOW, 4, 6)
    found = aligned("u:hi a:hello u:order a:done u:hi a:welcome-back u:x a:y", "u:hi a:welcome-back u:more")
    assert (found.shape, found.head, found.keep) == (Shape.EDITED, 4, 6)


def test_a_client_of_newest_messages_may_repeat_its_first_words() -> None:
    """The second "hi" is a second message, not the first one again; to a client that resends, it is the first."""
    found = aligned("u:hi a:hello u:more a:well", "u:hi", sends_newest=True)
    assert (found.shape, found.head, found.known) == (Shape.NEWEST, 4, (False,))
    found = aligned("u:hi a:hello u:more a:well", "u:hi", sends_newest=False)
    assert (found.shape, found.keep, found.branches) == (Shape.EDITED, 1, True)


def test_compaction_after_a_failed_turn_is_still_compaction() -> None:
    """An error right before an agent compacts its history does not cost the session."""
    for end in ("u:lost", "u:lost a:par?"):
        found = aligned(f"u:hi a:hello u:more a:well {end}", "u:sum u:more a:well u:on")
        assert (found.shape, found.keep, found.branches) == (Shape.COMPACTED, 4, False)
        assert found.positions == (None, 2, 3, 4)


def test_what_an_edit_keeps_is_not_learned_again() -> None:
    """The words before an edit, and those taken along behind it, are known already."""
    found = aligned("u:hi a:hello u:more a:well u:on a:end", "u:hi a:hello u:less a:well u:on a:end u:new")
    assert found.known == (True, True, False, True, True, True, False)


def test_nothing_sent_needs_nothing() -> None:
    """A request of instructions only asks for no place in the log."""
    assert aligned("u:hi a:hello", "").positions == ()


# Silent messages, and messages that stand behind others at the provider.


def silent(text: str) -> Entry:
    return Entry(text.encode(), is_answer=True, is_silent=True)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_silent_messages_may_be_left_out_or_sent_again(data: st.DataObject) -> None:
    """What a model thought is nobody's to align by: with all, some or none of it a conversation is the same one."""
    stored: list[Entry] = []
    for number in range(data.draw(st.integers(1, 4))):
        stored.append(Entry(f"u{number}".encode(), is_answer=False, is_user=True))
        for place in range(data.draw(st.integers(1, 3))):
            stored += [silent(f"t{number}{place}")] * data.draw(st.integers(0, 1))
            stored.append(Entry(f"a{number}{place}".encode(), is_answer=True))
    new = Entry(b"new", is_answer=False, is_user=True)
    kept = [entry for entry in stored if not entry.is_silent or data.draw(st.booleans())]
    found = align(stored, [*kept, new], sends_newest=False)
    assert (found.shape, found.keep, found.branches, found.head) == (Shape.WHOLE, len(stored), False, 0)
    assert found.known == (*(True for _ in kept), False)
    assert found.positions == (*map(stored.index, kept), len(stored))
    newest = align(stored, [new], sends_newest=True)
    assert (newest.shape, newest.head, newest.positions) == (Shape.NEWEST, len(stored), (len(stored),))


def test_new_silent_messages_are_appended_in_their_place() -> None:
    """They may lead to what comes next."""
    stored = [Entry(b"u", is_answer=False, is_user=True), Entry(b"a", is_answer=True)]
    incoming = [*stored, Entry(b"r", is_answer=False), silent("t"), Entry(b"b", is_answer=True)]
    found = align(stored, incoming, sends_newest=False)
    assert (found.positions, found.known, found.keep) == ((0, 1, 2, 3, 4), (True, True, False, False, False), 2)


def test_an_edit_drops_the_thoughts_that_led_to_what_it_drops() -> None:
    """What an unanswered message had made the model think goes with it."""
    user, more = (Entry(text, is_answer=False, is_user=True) for text in (b"u", b"m"))
    stored = [user, silent("t"), Entry(b"a", is_answer=True), more, silent("x")]
    new = Entry(b"n", is_answer=False, is_user=True)
    found = align(stored, [user, Entry(b"a", is_answer=True), new], sends_newest=False)
    assert (found.branches, found.keep, found.positions) == (False, 3, (0, 2, 3))


def test_a_chained_message_follows_the_answer_that_it_names() -> None:
    """Nothing is put before it, and nothing is compared: the provider has the rest."""
    stored = [Entry(b"u", is_answer=False, is_user=True), Entry(b"a", is_answer=True)]
    same = Entry(b"u", is_answer=False, is_user=True)
    found = align_chained(stored, [same], after=2)
    assert (found.shape, found.positions, found.keep, found.branches) == (Shape.CHAINED, (2,), 2, False)
    assert (found.known, found.restored, found.lies_elsewhere) == ((False,), 0, True)
    first = align_chained((), [same], after=0)
    assert (first.positions, first.restored, first.branches) == ((0,), 0, False)


def test_a_chained_message_may_leave_the_conversation_earlier() -> None:
    """A client that goes on from an older answer has begun a branch; one that only tries again has not."""
    user, answer = Entry(b"u", is_answer=False, is_user=True), Entry(b"a", is_answer=True)
    other = Entry(b"o", is_answer=False, is_user=True)
    stored = [user, answer, user, answer]
    branch = align_chained(stored, [other], after=2)
    assert (branch.branches, branch.keep, branch.positions) == (True, 2, (2,))
    again = align_chained(stored[:3], [user], after=2)
    assert (again.branches, again.keep, again.positions) == (False, 3, (2,))
    retried = align_chained(stored, [user], after=2, is_retry=True)
    assert (retried.branches, retried.keep, retried.positions) == (False, 3, (2,))


# Messages that code wrote into the log.


def notes(words: str) -> list[Entry]:
    """`n:` is a message that code wrote; the rest as ever."""
    return [message.entry._replace(is_written=message.role == "n") for message in said(words)]


@pytest.mark.parametrize(
    ("stored", "incoming", "positions", "head", "keep"),
    [
        ("u:a a:b n:x", "u:a a:b u:c", (0, 1, 3), 0, 3),
        ("n:x u:a a:b", "u:a a:b u:c", (1, 2, 3), 1, 3),
        ("u:a n:x a:b n:y u:c a:d", "u:a a:b u:c a:d u:e", (0, 2, 4, 5, 6), 0, 6),
        ("u:a a:b n:x u:c a:d n:y", "u:c a:d u:e", (3, 4, 6), 3, 6),
        ("u:a a:b n:x", "u:c", (3,), 3, 3),
        ("u:a a:b n:x n:y", "u:a a:b n:x u:c", (0, 1, 2, 4), 0, 4),
        ("u:a a:b n:x", "u:a a:b n:x u:c", (0, 1, 2, 3), 0, 3),
        ("n:x", "u:a", (1,), 1, 1),
    ],
)
def test_what_code_wrote_and_the_client_does_not_know_is_passed_over(
    stored: str, incoming: str, positions: tuple[int, ...], head: int, keep: int
) -> None:
    """It stays where it is; the client's own messages are found around it, and go on in the same log."""
    found = align(notes(stored), entries(said(incoming)), sends_newest=False)
    assert (found.positions, found.head, found.keep, found.branches) == (positions, head, keep, False)
    assert found.is_whole == (positions == tuple(range(len(positions))))


def test_what_code_wrote_is_never_replaced_in_place() -> None:
    """An unanswered end gives way; if code wrote behind it, the new words begin a branch instead."""
    found = align(notes("u:a a:b u:c n:x"), entries(said("u:a a:b u:d")), sends_newest=False)
    assert (found.branches, found.keep) == (True, 2)
    plain_end = align(notes("u:a a:b n:x u:c"), entries(said("u:a a:b u:d")), sends_newest=False)
    assert plain_end.branches
    edited = align(notes("u:a a:b n:x u:c a:d"), entries(said("u:a a:b u:e")), sends_newest=False)
    assert (edited.branches, edited.keep) == (True, 2)


@quick
@given(st.data())
def test_a_conversation_goes_on_around_whatever_code_writes_into_it(data: st.DataObject) -> None:
    """Each message of the client's is stored once, in order, and no note of code's is lost."""
    log: list[Entry] = []
    sent: list[Entry] = []
    for turn in range(data.draw(st.integers(1, 4))):
        sent.append(Said("u", f"q{turn}").entry)
        found = align(log, sent, sends_newest=False)
        assert (found.branches, found.keep) == (False, len(log))
        log += [sent[-1], Said("a", f"r{turn}").entry]
        sent.append(log[-1])
        for number in range(data.draw(st.integers(0, 2))):
            place = data.draw(st.integers(0, len(log)))
            role = data.draw(st.sampled_from("ua"))
            log.insert(place, Said(role, f"n{turn}{number}").entry._replace(is_written=True))
    assert [entry for entry in log if not entry.is_written] == sent
