"""The agent of the third scene, without memproxy."""

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from memproxy.demo.lookups import QUESTIONS, Format, formats, run_agent, support
from memproxy.demo.scripted_model import ScriptedModel


@pytest.mark.parametrize("form", formats(), ids=lambda form: form.title)
async def test_without_memproxy_each_question_is_looked_up(form: Format) -> None:
    """The agent runs its tool three times: what memproxy saves is really there to be saved."""
    async with ScriptedModel(support).serve() as upstream:
        http = DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(base_url=upstream.base_url, api_key="x", http_client=http) as client:
            account = await run_agent(client, QUESTIONS, form)
    assert [call.replace(" ", "") for call in account.executed] == ['search_orders({"query":"laptop"})'] * 3
    assert all("LX-48213" in answer for answer in account.answers)
