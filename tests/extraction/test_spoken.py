"""Who said what, what of it is worth keeping, and where long texts are cut."""

from datetime import UTC, datetime

import pytest

from memproxy.extraction.spoken import (
    MAX_PIECES,
    PIECE_CHARS,
    Utterance,
    day,
    is_trivial,
    pieces,
    sentences,
    utterances,
)
from memproxy.records import JsonObject, StoredMessage

NOON = datetime(2023, 5, 8, 12, tzinfo=UTC)


def said(*messages: JsonObject) -> list[Utterance]:
    return utterances(StoredMessage(message, digest="", tokens=0, at=NOON) for message in messages)


def test_only_what_user_and_assistant_said_counts() -> None:
    """Prompts of the agent's author and results of tools are not what the user told us."""
    heard = said(
        {"role": "system", "content": "You are Bob."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "  Hello there  "},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42 results", "tool_call_id": "1"},
        {"role": "function", "content": "old tools", "name": "f"},
        {"role": "assistant", "content": [{"type": "text", "text": "Found"}, {"type": "image_url"}]},
        {"type": "function_call_output", "output": "x"},
        {"role": ["user"], "content": "odd"},
        {"role": "user", "content": 7},
    )
    assert [(one.role, one.words) for one in heard] == [("user", "Hello there"), ("assistant", "Found")]


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("Ann Lee", "Ann Lee"),
        (" Ann\nLee ", "Ann Lee"),
        ("", "User"),
        (None, "User"),
        (3, "User"),
        ("x" * 99, "x" * 64),
    ],
)
def test_a_speaker_is_called_by_the_name_given(name: object, speaker: str) -> None:
    """Where several people speak, it matters who."""
    assert said({"role": "user", "content": "words", "name": name})[0].speaker == speaker


def test_without_names_the_roles_are_the_speakers() -> None:
    """A model reads User and Assistant best."""
    heard = said({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert [one.speaker for one in heard] == ["User", "Assistant"]


@pytest.mark.parametrize(
    "words",
    [
        *(
            "ok",
            "Thanks!",
            "yes please",
            "Sounds good, thank you so much.",
            "👍",
            "...",
            "No, that's all.",
            "Sí, gracias",
        ),
        *("Hello! How can I help you today?", "You're welcome! Let me know if you need anything else.", "I don't know"),
    ],
)
def test_replies_that_say_nothing_are_trivial(words: str) -> None:
    """A memory full of thanks finds thanks."""
    assert is_trivial(words)


@pytest.mark.parametrize(
    "words",
    [
        "Berlin",
        "yes, order 4711",
        "7",
        "ok, AB-12",
        "Thanks, Caroline",
        "I'm allergic to peanuts",
        "花生过敏",
        "Спасибо Анна",
        "No meat please",
        "in May",
    ],
)
def test_a_single_word_that_says_something_is_kept(words: str) -> None:
    """The answer to a question is often one word."""
    assert not is_trivial(words)


def test_a_short_text_is_one_piece() -> None:
    """Most messages are stored as they are."""
    assert pieces(" Hello. How are you? ") == ["Hello. How are you?"]
    assert pieces("  ") == []


@pytest.mark.parametrize(
    ("sentence", "joint"),
    [
        ("This is one of the sentences, 3.5 words long. ", " "),
        ('He said "enough!" ', " "),
        ("雨が降っています。", ""),
        ("line\n", "\n"),
    ],
)
def test_long_texts_are_cut_between_sentences(sentence: str, joint: str) -> None:
    """Each piece can be understood by itself, and nothing is lost."""
    text = sentence * 400
    cut = pieces(text)
    assert len(cut) > 1
    assert all(PIECE_CHARS // 2 <= len(piece) <= PIECE_CHARS for piece in cut[:-1])
    assert all(piece.endswith(sentence.strip()) and piece.startswith(sentence[:2]) for piece in cut)
    assert joint.join(cut) == text.strip()


def test_texts_without_sentences_are_cut_between_words_and_without_words_anywhere() -> None:
    """Lists and encoded data have to be cut somewhere."""
    assert all(set(piece.split()) == {"word"} for piece in pieces("word " * 1000))
    assert [len(piece) for piece in pieces("x" * (PIECE_CHARS * 2 + 1))] == [PIECE_CHARS, PIECE_CHARS, 1]


def test_a_pasted_document_does_not_flood_the_memory() -> None:
    """A megabyte pasted into a chat is not seven hundred memories."""
    assert len(pieces("Some words. " * 100_000)) == MAX_PIECES


def test_days_are_written_as_people_write_them() -> None:
    """Models read them without mistaking month for day."""
    assert day(NOON) == "8 May 2023"


@pytest.mark.parametrize(
    ("words", "cut"),
    [
        ("One. Two? Three", ["One. ", "Two? ", "Three"]),
        ("No end", ["No end"]),
        ('He said "Go!" Then\nhe left.', ['He said "Go!" ', "Then\n", "he left."]),
        ("\u4e00\u3002\u4e8c\u3002", ["\u4e00\u3002", "\u4e8c\u3002"]),
        ("It costs 3.50 euros.", ["It costs 3.50 euros."]),
        ("", []),
    ],
)
def test_sentences_are_cut_and_nothing_is_lost(words: str, cut: list[str]) -> None:
    """What repeats is left out sentence by sentence; the rest stays as it was said."""
    assert sentences(words) == cut
    assert "".join(sentences(words)) == words


def test_words_carry_the_turn_that_brought_them() -> None:
    """A memory names its turn, and what was only put into a message is not said."""
    message = {"role": "user", "content": "<file>\nAnn lives in Rome.\n</file>\nWho is Ann?"}
    stored = StoredMessage(message, digest="", tokens=0, at=NOON, turn="t7")
    assert [(one.words, one.turn) for one in utterances([stored])] == [("Who is Ann?", "t7")]
