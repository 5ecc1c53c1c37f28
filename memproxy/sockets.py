"""Listening sockets."""

import socket


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on host and port; port 0 takes a free one. Raises OSError.

    The protocol is named: asyncio switches Nagle's algorithm off only for sockets that say they are TCP, and with it a
    response of two writes waits 40 ms for the client's delayed acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening
