"""Count tokens and know each model's window; the only door to tiktoken.

The vocabularies lie inside the package under the names that tiktoken's cache gives them, so nothing is fetched at
start. Counting costs about 36 microseconds per 1,000 characters, hence a long text is estimated on the event loop and
counted exactly elsewhere.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import tiktoken

EXACT_LIMIT = 4_000
"""Characters up to which counting is cheap enough for the event loop (about 0.15 ms)."""

SAMPLES, SAMPLE_CHARS = 8, 500
"""Pieces of a long text that are counted for an estimate. A fixed ratio would not do: prose has 4 to 5 characters per
token in o200k, JSON of tools 2.6 to 3, encoded data 1.5, Chinese 1."""

CAUTION = 1.1
"""An estimate is raised by this: pieces can miss the densest part, and a cut too early does less harm than none."""

PIECE_CHARS = 100_000
"""Characters that are counted at once."""

COUNTED_CHARS = 400_000
"""Characters of one message that are counted at all, about 15 ms; a longer one is estimated."""

MESSAGE_OVERHEAD = 4
"""Tokens that a message's frame costs besides its text. Source: OpenAI's cookbook on counting chat tokens."""

KNOWN_MODELS, MODEL_CHARS = 1_000, 200
"""Models whose window is kept, and the longest name of one: clients name them."""


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(Path(__file__).parent / "vocab"))
    encoding = tiktoken.get_encoding("o200k_base")
    encoding._mergeable_ranks = {}  # 20 MB that only pickling reads: what counts has a table of its own
    return encoding


def load_vocabulary() -> None:
    """Read the vocabulary now (about 0.3 s, blocking), so that the first request does not."""
    _encoding()


def count_tokens(text: str) -> int:
    """Tokens of `text` in OpenAI's o200k vocabulary: exact for current OpenAI models, close for others.

    A long text is counted in pieces: beyond a million blanks in a row tiktoken overflows its stack, and panics with
    what is no `Exception`. A cut costs a token at the most.
    """
    if len(text) <= PIECE_CHARS:
        return len(_encoding().encode_ordinary(text))
    return sum(count_tokens(text[start : start + PIECE_CHARS]) for start in range(0, len(text), PIECE_CHARS))


def estimate_tokens(text: str) -> int:
    """Tokens of `text`: exact when it is short, otherwise estimated from pieces of it, rather too high."""
    if len(text) <= EXACT_LIMIT:
        return count_tokens(text)
    starts = [at * (len(text) - SAMPLE_CHARS) // (SAMPLES - 1) for at in range(SAMPLES)]
    counted = sum(count_tokens(text[start : start + SAMPLE_CHARS]) for start in starts)
    return int(CAUTION * counted * len(text) / (SAMPLES * SAMPLE_CHARS)) + 1


class Windows:
    """Context windows by model name.

    `by_prefix` maps a prefix of the model's name to its window in tokens; the longest prefix that fits decides. A
    provider's prefix (`openai/gpt-4.1`) is looked past. Unknown models get `default`.
    """

    def __init__(self, by_prefix: Mapping[str, int], default: int) -> None:
        self._by_prefix = dict(sorted(by_prefix.items(), key=lambda item: -len(item[0])))
        self._default = default
        self._known: dict[str, int] = {}

    def window_of(self, model: str) -> int:
        """The model's context window in tokens."""
        known = self._known.get(model)
        if known is None:
            known = self._sought(model)
            if len(self._known) < KNOWN_MODELS and len(model) <= MODEL_CHARS:
                self._known[model] = known
        return known

    def _sought(self, model: str) -> int:
        name = model.lower()
        for candidate in (name, name.rpartition("/")[2]):
            for prefix, window in self._by_prefix.items():
                if candidate.startswith(prefix):
                    return window
        return self._default
