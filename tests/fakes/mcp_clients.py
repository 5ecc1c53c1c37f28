"""The official MCP client before a memproxy of this process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from tests.fakes.serving import Served


@asynccontextmanager
async def mcp_client(
    served: Served, path: str = "/mcp", *, mode: str = "auto", **headers: str
) -> AsyncIterator[Client]:
    """The client, connected over HTTP; `mode` is `auto`, `legacy`, or a version of the protocol."""
    async with httpx2.AsyncClient(headers=headers, timeout=30, verify=False) as http:
        transport = streamable_http_client(served.origin + path, http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=30) as client:
            yield client


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    """What the tool gave, which has to be no error."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    told = json.loads(text_of(result))
    assert result.structured_content == told
    return told


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """What the tool says is wrong, which has to be an error."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, text_of(result)
    return text_of(result)


def text_of(result: CallToolResult) -> str:
    """The text that a model reads."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text
