"""An assistant that knows its user from earlier conversations.

On Monday the user tells something; on Friday, in a new conversation, the assistant knows it. The code does nothing for
that: memproxy learns from the first conversation in the background, finds what the question is about, and puts it in
front of the question.

    export MEMPROXY_URL=http://127.0.0.1:8080
    python examples/knowledge_agent.py
"""

import os
import time

import httpx
from openai import OpenAI

MEMPROXY_URL = os.environ.get("MEMPROXY_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
USER = "dana"

MONDAY = ("Hi! I'm Dana. I'm allergic to peanuts, and I live in Porto.", "I'll fly to Bangkok in December.")
FRIDAY = ("What am I allergic to? I have to tell the restaurant.", "And when do I fly to Bangkok?")


def talk(session: str, lines: tuple[str, ...]) -> None:
    """One conversation. User and session stand in the base URL."""
    client = OpenAI(base_url=f"{MEMPROXY_URL}/u/{USER}/s/{session}/v1")
    for line in lines:
        response = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": line}]
        )
        print(f"  user:      {line}")
        print(f"  assistant: {response.parse().choices[0].message.content}")
        known = response.headers.get("x-memproxy-memories", "0")
        print(f"             ({known} memories were put in front of the question)")
        explain(response.headers["x-memproxy-request-id"])


def explain(request_id: str) -> None:
    """What memproxy added to the request, in its own words."""
    receipt = httpx.get(f"{MEMPROXY_URL}/memproxy/explain/{request_id}", headers=credential()).json()
    for line in (receipt["injected"] or {}).get("block", "").splitlines():
        print(f"             | {line}")


def wait_until_learned() -> None:
    """What was said is there a moment later; a script that goes on at once has to wait for it."""
    for _ in range(100):
        found = httpx.post(
            f"{MEMPROXY_URL}/v1/long-term-memory/search",
            headers=credential(),
            json={"text": "peanuts", "user_id": {"eq": USER}, "limit": 1},
        ).json()
        if found["memories"]:
            return
        time.sleep(0.1)
    raise SystemExit("memproxy has learned nothing; does it run with a worker?")


def credential() -> dict[str, str]:
    """The REST API takes the same credential as the proxied provider."""
    return {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}


def main() -> None:
    """Two conversations, four days apart."""
    print("Monday")
    talk("monday", MONDAY)
    wait_until_learned()
    print("Friday")
    talk("friday", FRIDAY)


if __name__ == "__main__":
    main()
