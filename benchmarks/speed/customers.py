"""Customers of the local stack, connected and ready to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mangalib.client import Client
from mangalib.local import Stack

# The shop's data know forty.
CUSTOMERS = 40


def token_of(stack: Stack, number: int) -> str:
    """The token of the customer with that number; they come round again."""
    return stack.token_for(f"customer-{number % CUSTOMERS + 1:03d}")


@asynccontextmanager
async def customers(stack: Stack, count: int) -> AsyncIterator[list[Client]]:
    """So many connections, closed with the block."""
    async with AsyncExitStack() as open_:
        clients = [
            Client(stack.addresses["websocket_url"], token_of(stack, number), settings=stack.settings)
            for number in range(count)
        ]
        yield [await open_.enter_async_context(client) for client in clients]
