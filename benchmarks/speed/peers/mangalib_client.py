"""Ours without the post to the gateway: warm pool, lean transport, text batched, frames encoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import boto3
from rounds import Ask, MeasuredAnswer, Where, serve

from mangalib.aws import BedrockRuntime, ClaudeRequest, ModelReply, Signer, Turn, bedrock_endpoint, bedrock_pool
from mangalib.protocol import Chunk, encode
from mangalib.serving import TextBatcher
from mangalib.settings import load_settings


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Ask]:
    settings = load_settings(bedrock_url=where.url, bedrock_ca=Path(where.ca), region=where.region)
    endpoint = bedrock_endpoint(settings)
    signer = Signer(boto3.Session(region_name=where.region), where.region)
    async with bedrock_pool(endpoint, settings) as pool:
        models = BedrockRuntime(pool, signer, endpoint, settings)

        async def ask(question: str, measured: MeasuredAnswer) -> None:
            reply, batcher, seq = ModelReply(), TextBatcher(batch_size=settings.chunk_batch_size), 0
            async with models.stream(where.model, ClaudeRequest(400, [Turn("user", question)])) as stream:
                async for events in stream:
                    for text in reply.receive(events):
                        batcher.add(text)
                    if (text := batcher.take(everything=reply.complete)) is not None:
                        encode(Chunk(text, question, seq))
                        seq += 1
                        measured.add_text(text)

        yield ask


if __name__ == "__main__":
    serve(connected)
