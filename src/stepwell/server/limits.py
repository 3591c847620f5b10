"""What a server refuses, and what it takes for its own machine."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is refused."""

    text: int = 2_000  # characters of a query or a text to embed
    batch: int = 64  # queries or texts of a request
    k: int = 100  # passages a query
    queue: int = 256  # queries that may wait; beyond it the answer is 503
    at_once: int = 32  # queries that are embedded and searched together
    body: int = 1 << 20  # bytes of a request's body
    head: int = 16_384  # bytes of a request's line and headers
    seconds: float = 10.0  # that a head may take to arrive, and a body
    connections: int = 512  # that are open; beyond it the answer is 503


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
