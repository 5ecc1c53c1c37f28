"""Log records as machines get them, caught while something runs."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

from memproxy.records import JsonObject
from memproxy.telemetry.logs import JsonLine


class _Catching(logging.Handler):
    def __init__(self, lines: list[JsonObject]) -> None:
        super().__init__()
        self.setFormatter(JsonLine())
        self._lines = lines

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(json.loads(self.format(record)))


@contextmanager
def caught_lines(name: str = "memproxy", *, level: int = logging.INFO) -> Iterator[list[JsonObject]]:
    """The JSON lines of a logger and those below it, while inside."""
    lines: list[JsonObject] = []
    logger, handler = logging.getLogger(name), _Catching(lines)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
