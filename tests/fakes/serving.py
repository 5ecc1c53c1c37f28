"""A memproxy that serves in the test's own process, and the patience to wait for it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from memproxy.demo.scripted_model import ScriptedModel
from memproxy.server import Instance


@dataclass(frozen=True, slots=True)
class Served:
    """A memproxy that serves in this process, before a scripted model server."""

    origin: str
    model: ScriptedModel
    instance: Instance

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def openai(self, path: str = "/v1", **headers: str) -> AsyncOpenAI:
        """The openai client as an agent would make it; close it with `async with`."""
        return AsyncOpenAI(
            base_url=self.origin + path,
            api_key="sk-test",
            max_retries=0,
            default_headers=headers,
            http_client=DefaultAsyncHttpxClient(verify=False),
        )

    async def settled(self) -> None:
        """Wait until all exchanges are recorded and learned from."""
        await until(self.instance.is_quiet)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


async def until(condition: Callable[[], Awaitable[bool]], *, deadline_s: float = 30.0) -> None:
    """Wait for a condition; fails when it does not come about in time."""
    async with asyncio.timeout(deadline_s):
        while not await condition():  # noqa: ASYNC110  what is waited for lies in other processes
            await asyncio.sleep(0.01)
