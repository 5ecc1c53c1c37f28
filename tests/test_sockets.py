"""Listening sockets."""

import asyncio
import socket

import pytest

from memproxy.sockets import listening_socket


async def test_accepted_connections_send_without_delay() -> None:
    """With Nagle's algorithm a response of two writes would wait 40 ms for the client's delayed acknowledgement."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain = writer.get_extra_info("socket")
        accepted.set_result(plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()
        await writer.wait_closed()

    with listening_socket("127.0.0.1", 0) as listening:
        async with await asyncio.start_server(accept, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            assert await accepted
            writer.close()
            await writer.wait_closed()


def test_a_taken_port_raises_and_leaves_nothing_open() -> None:
    """The caller tells the operator."""
    with listening_socket("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        listening_socket("127.0.0.1", taken.getsockname()[1])


def test_ipv6_addresses_are_taken() -> None:
    """`--host ::1` works where the machine has it."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    with listening_socket("::1", 0) as listening:
        assert listening.family == socket.AF_INET6
