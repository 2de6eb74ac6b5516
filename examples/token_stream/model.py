"""A model that generates tokens. It stands for a real one."""

import asyncio
from collections.abc import AsyncIterator

from quicdist import current_call, export

WORDS = b"over the hills and far away".split()


@export
async def generate(prompt: bytes) -> AsyncIterator[bytes]:
    """Yields the prompt and then words, without end. Closed when the consumer needs no more."""
    caller = current_call().node
    for word in prompt.split():
        yield word
    number = 0
    try:
        while True:
            await asyncio.sleep(0.01)  # the model computes
            yield WORDS[number % len(WORDS)]
            number += 1
    finally:
        print(f"stopped after {number} words for {caller}", flush=True)
