"""LiteLLM's streaming from Bedrock, by its route for Claude's own events."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Its list of prices is fetched from the Internet otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from rounds import Ask, MeasuredAnswer, Where, serve


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Ask]:
    litellm.ssl_verify = where.ca
    litellm.suppress_debug_info = True

    async def ask(question: str, measured: MeasuredAnswer) -> None:
        answer = await litellm.acompletion(
            model=f"bedrock/invoke/{where.model}",
            messages=[{"role": "user", "content": question}],
            max_tokens=400,
            stream=True,
            aws_region_name=where.region,
            aws_bedrock_runtime_endpoint=where.url,
        )
        async for piece in answer:
            measured.add_text(piece.choices[0].delta.content or "")

    yield ask


if __name__ == "__main__":
    serve(connected)
