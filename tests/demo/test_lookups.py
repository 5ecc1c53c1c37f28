"""The agent of the third scene, without memproxy."""

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from memproxy.demo.lookups import QUESTIONS, run_agent, support
from memproxy.demo.scripted_model import ScriptedModel


async def test_without_memproxy_each_question_is_looked_up() -> None:
    """The agent runs its tool three times: what memproxy saves is really there to be saved."""
    async with ScriptedModel(support).serve() as upstream:
        http = DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(base_url=upstream.base_url, api_key="x", http_client=http) as client:
            account = await run_agent(client, QUESTIONS)
    assert account.executed == ['search_orders({"query":"laptop"})'] * 3
    assert all("LX-48213" in answer for answer in account.answers)
