"""The scripted support model knows only what it is sent."""

from typing import Any

import msgspec

from memproxy.demo.scenes import PREFERENCE, SCENES, answer
from memproxy.demo.script import ModelRequest


def asked(*messages: dict[str, Any], **fields: Any) -> ModelRequest:
    body = msgspec.json.encode({"model": "m", "messages": list(messages), **fields})
    return ModelRequest("POST", "/v1/chat/completions", "", (), body, 0.0)


def test_without_memory_every_later_line_fails() -> None:
    """Sent alone, the questions can't be answered: the demo's success is memproxy's."""
    for line in [line for scene in SCENES for line in scene.lines][1:]:
        said = answer(asked({"role": "user", "content": line.text})).text or ""
        assert line.must_answer not in said or line.must_answer == "e-mail"
        assert "Which order" in said


def test_the_preference_is_extracted_only_where_it_was_said() -> None:
    """The extraction answer is grounded in the turn that it is asked about."""
    said = SCENES[0].lines[-1].text
    found = answer(asked({"role": "user", "content": said}, response_format={"type": "json_schema"})).text or ""
    other = answer(asked({"role": "user", "content": "hello"}, response_format={"type": "json_schema"})).text or ""
    assert PREFERENCE in found
    assert PREFERENCE not in other
