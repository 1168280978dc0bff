"""A stand-in for the Bedrock runtime: HTTP/1.1 over TLS, SigV4 verified, Claude 3's stream as event-stream messages.

Its timing comes from the latency model (``latency.py``). Each event of a model carries the time when it was sent, so that
the product's share of a latency can be separated from the model's.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import ssl
import string
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from mangalib.aws import encode_message
from mangalib.domain import Catalogue
from mangalib.local import sigv4
from mangalib.local.answers import AnswerWriter, tokens_of
from mangalib.local.claude import LocalRequest, ServiceError, answer_events, parse_request
from mangalib.local.faults import KINDS, Fault, FaultInjector
from mangalib.local.latency import LatencyModel, LatencyProfile
from mangalib.local.service import Announce
from mangalib.local.tls import certificate_paths
from mangalib.nlu import hashed_ngrams, ngrams_within_words
from mangalib.settings import LocalBedrockSettings

_PATH = re.compile(r"/model/(?P<model>[^/]+)/(?P<operation>invoke|invoke-with-response-stream)")
_EVENT_HEADERS = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
_TRANSCRIPTS = 512
_NGRAM_SIZES = range(2, 5)
_PADDING = string.ascii_letters + string.digits


class Stats(msgspec.Struct):
    """The response of ``GET /_local/stats``: ``connections``, ``open_streams`` and ``held`` (by a fault) are current values,
    the rest are totals since the start."""

    tls_handshakes: int = 0
    connections: int = 0
    invocations: int = 0
    open_streams: int = 0
    held: int = 0
    tokens_generated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cancelled_streams: int = 0
    events_sent: int = 0


class _CountingServer(web.Server):
    """Counts connections after their TLS handshake, except those of the admin interface: reading the counts must not change
    them."""

    def __init__(self, handler: Any, stats: Stats, **options: Any) -> None:
        super().__init__(handler, **options)
        self._stats = stats
        self._admins: set[Any] = set()

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        self._stats.tls_handshakes += 1
        self._stats.connections += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        if handler in self._admins:
            self._admins.remove(handler)
        else:
            self._stats.connections -= 1
        super().connection_lost(handler, exc)

    def mark_as_admin(self, handler: Any) -> None:
        """Stop counting this connection: a request for the admin interface came over it."""
        if handler not in self._admins:
            self._admins.add(handler)
            self._stats.tls_handshakes -= 1
            self._stats.connections -= 1


class BedrockStandIn:
    """The service. Its texts are deterministic for a seed, its timing is not."""

    def __init__(self, settings: LocalBedrockSettings, access_key: str, secret_key: str) -> None:
        rng = random.Random(settings.local_seed)
        self._settings = settings
        self._keys = {"access_key": access_key, "secret_key": secret_key}
        self._writer = AnswerWriter(Catalogue.load(settings.data_dir / "catalogue.csv"), settings.local_seed)
        self._latency = LatencyModel(LatencyProfile.from_settings(settings), rng)
        self._faults = FaultInjector(KINDS, rng)
        self._rng = rng
        self._transcripts: deque[dict[str, Any]] = deque(maxlen=_TRANSCRIPTS)
        self.stats = Stats()
        self.server: _CountingServer | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle a request of the service or of its admin interface."""
        path, _, query = request.raw_path.partition("?")
        if path.startswith("/_local/"):
            if self.server is not None:
                self.server.mark_as_admin(request.protocol)
            return await self._admin(request, path)
        try:
            match = _PATH.fullmatch(path)
            if match is None or request.method != "POST":
                raise ServiceError(404, "UnknownOperationException", "no such operation")
            body = await request.read()
            self._authenticate(request, path, query, body)
            model_id = unquote(match["model"])
            self._check_model(model_id)
            self.stats.invocations += 1
            if model_id == self._settings.embedding_model_id:
                return await self._embed(request, body)
            claude = parse_request(body)
            if match["operation"] == "invoke":
                return await self._invoke(request, model_id, claude)
            return await self._stream(request, model_id, claude)
        except ServiceError as error:
            return web.json_response(
                {"message": str(error)}, status=error.status, headers={"x-amzn-ErrorType": error.name}
            )

    def _authenticate(self, request: web.BaseRequest, path: str, query: str, body: bytes) -> None:
        problem = sigv4.verify_signature(
            method=request.method,
            url=f"https://{request.headers['Host']}{path}" + (f"?{query}" if query else ""),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            service="bedrock",
            region=self._settings.region,
            **self._keys,
        )
        if problem is not None:
            raise ServiceError(403, "AccessDeniedException", problem)

    def _check_model(self, model_id: str) -> None:
        settings = self._settings
        if model_id not in {settings.haiku_model_id, settings.sonnet_model_id, settings.embedding_model_id}:
            raise ServiceError(404, "ResourceNotFoundException", f"Could not resolve the model {model_id!r}.")

    # Embeddings and unstreamed answers

    async def _embed(self, request: web.BaseRequest, body: bytes) -> web.Response:
        await self._before(request, self._faults.next_for_invocation())
        try:
            fields = msgspec.json.decode(body)
            text, dimensions = fields["inputText"], fields.get("dimensions", 1024)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            raise ServiceError(400, "ValidationException", "inputText: required") from None
        if dimensions not in {256, 512, 1024} or not isinstance(text, str) or not text:
            raise ServiceError(400, "ValidationException", "dimensions: 256, 512 or 1024; inputText: not empty")
        await asyncio.sleep(self._latency.embedding_s())
        vector = hashed_ngrams([ngrams_within_words(text, _NGRAM_SIZES)], dimensions)[0].tolist()
        count = len(tokens_of(text))
        self.stats.input_tokens += count
        return web.json_response({"embedding": vector, "inputTextTokenCount": count})

    async def _invoke(self, request: web.BaseRequest, model_id: str, claude: LocalRequest) -> web.Response:
        started = time.monotonic()
        await self._before(request, self._faults.next_for_invocation())
        text, stop_reason, tokens, input_tokens = self._answer(model_id, claude)
        await asyncio.sleep(self._latency.first_token_s(model_id) + self._latency.inter_token_s(len(tokens)))
        self._bill(input_tokens, len(tokens))
        latency_ms = int((time.monotonic() - started) * 1000)
        headers = {
            "X-Amzn-Bedrock-Input-Token-Count": str(input_tokens),
            "X-Amzn-Bedrock-Output-Token-Count": str(len(tokens)),
            "X-Amzn-Bedrock-Invocation-Latency": str(latency_ms),
            "x-amzn-RequestId": str(uuid.uuid4()),
        }
        message = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": model_id,
            "content": [{"type": "text", "text": text}],
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": input_tokens, "output_tokens": len(tokens)},
        }
        return web.json_response(message, headers=headers)

    # Streams

    async def _stream(self, request: web.BaseRequest, model_id: str, claude: LocalRequest) -> web.StreamResponse:
        started = time.monotonic()
        fault = self._faults.next_for_stream()
        await self._before(request, fault)
        _, stop_reason, tokens, input_tokens = self._answer(model_id, claude)
        wait_s = self._latency.first_token_s(model_id)
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/vnd.amazon.eventstream",
                "X-Amzn-Bedrock-Content-Type": "application/json",
                "x-amzn-RequestId": str(uuid.uuid4()),
            }
        )
        await response.prepare(request)
        question = claude.messages[-1].content
        transcript: dict[str, Any] = {"model_id": model_id, "question": question, "text": "", "asked_at_s": started}
        self._transcripts.append(transcript)
        self.stats.open_streams += 1
        try:
            await asyncio.sleep(wait_s)
            first_byte_ms = (time.monotonic() - started) * 1000
            events = answer_events(model_id, stop_reason, tokens, input_tokens, self._rng, started, first_byte_ms)
            if await self._write_events(request, response, events, fault, transcript):
                await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.stats.cancelled_streams += 1
            raise
        finally:
            self.stats.open_streams -= 1
        return response

    async def _write_events(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        events: Iterator[tuple[dict[str, Any], int]],
        fault: Fault | None,
        transcript: dict[str, Any],
    ) -> bool:
        """Write an answer's events at the latency model's pace; returns ``False`` where a fault ended the stream."""
        for number, (event, token_count) in enumerate(events):
            if fault is not None and fault.precedes(number, event["type"]):
                if await self._in_stream(request, response, fault):
                    return False
                fault = None
            # The wait before the stream covers the first token; each later one has its own wait.
            if token_count and transcript["text"]:
                await asyncio.sleep(self._latency.inter_token_s(token_count))
            await response.write(self._encode(event))
            usage = event["message"]["usage"] if event["type"] == "message_start" else {}
            self._bill(usage.get("input_tokens", 0), token_count)
            self.stats.events_sent += 1
            if text := event.get("delta", {}).get("text", ""):
                transcript["text"] += text
                transcript.setdefault("first_text_sent_at_s", event["local_sent_at_s"])
        return True

    def _encode(self, event: dict[str, Any]) -> bytes:
        event["local_sent_at_s"] = time.monotonic()
        inner = base64.b64encode(msgspec.json.encode(event)).decode()
        padding = "".join(self._rng.choices(_PADDING, k=self._rng.randrange(4, 40)))
        return encode_message(_EVENT_HEADERS, msgspec.json.encode({"bytes": inner, "p": padding}))

    def _answer(self, model_id: str, claude: LocalRequest) -> tuple[str, str, list[str], int]:
        text, stop_reason = self._writer.write(model_id, claude), "end_turn"
        stops = [at for sequence in claude.stop_sequences if sequence and (at := text.find(sequence)) >= 0]
        if stops:
            text, stop_reason = text[: min(stops)], "stop_sequence"
        tokens = tokens_of(text)
        if len(tokens) > claude.max_tokens:
            stop_reason = "max_tokens"
        kept = tokens[: claude.max_tokens]
        prompt = " ".join([claude.system, *(turn.content for turn in claude.messages)])
        return "".join(kept), stop_reason, kept, len(tokens_of(prompt))

    def _bill(self, input_tokens: int, output_tokens: int) -> None:
        self.stats.input_tokens += input_tokens
        self.stats.output_tokens += output_tokens
        self.stats.tokens_generated += output_tokens

    # Faults

    async def _before(self, request: web.BaseRequest, fault: Fault | None) -> None:
        """Apply a fault that occurs before the first byte of a response."""
        if fault is None:
            return
        if fault.kind == "slow_first_token":
            await self._faults.hold(fault)
        elif fault.before_response:
            await self._before_headers(request, fault)

    async def _before_headers(self, request: web.BaseRequest, fault: Fault) -> None:
        match fault.kind:
            case "throttle":
                raise ServiceError(429, "ThrottlingException", "Too many requests, please wait before trying again.")
            case "internal":
                raise ServiceError(500, "InternalServerException", "The server had an error.")
            case "reset":
                _abort(request)
                raise ConnectionResetError("injected fault: reset")
            case "stall":
                await self._faults.hold(fault)

    async def _in_stream(self, request: web.BaseRequest, response: web.StreamResponse, fault: Fault) -> bool:
        """Apply a fault within the stream; returns whether it ends the stream."""
        match fault.kind:
            case "reset":
                _abort(request)
                return True
            case "stall" if not fault.before_response:
                await self._faults.hold(fault)
            case "bad_json":
                await response.write(encode_message(_EVENT_HEADERS, b'{"bytes": "bm90IGpzb24="}'))
            case "throttle" | "internal" | "model_stream_error":
                names = {
                    "throttle": "throttlingException",
                    "internal": "internalServerException",
                    "model_stream_error": "modelStreamErrorException",
                }
                headers = {
                    ":exception-type": names[fault.kind],
                    ":content-type": "application/json",
                    ":message-type": "exception",
                }
                body = {
                    "message": "The stream broke off.",
                    "originalStatusCode": 500,
                    "originalMessage": "injected fault",
                }
                await response.write(encode_message(headers, msgspec.json.encode(body)))
                await response.write_eof()
                return True
        return False

    # Admin

    async def _admin(self, request: web.BaseRequest, path: str) -> web.Response:
        try:
            match request.method, path.removeprefix("/_local/"):
                case "GET", "stats":
                    self.stats.held = self._faults.holding
                    return web.json_response(msgspec.to_builtins(self.stats))
                case "GET", "transcripts":
                    return web.json_response(list(self._transcripts))
                case "GET", "profile":
                    return web.json_response(msgspec.to_builtins(self._latency.profile))
                case "POST", "profile":
                    self._latency.profile = self._latency.profile.changed(await request.read())
                    return web.json_response(msgspec.to_builtins(self._latency.profile))
                case "PUT", "answer":
                    self._writer.fixed_answer = msgspec.json.decode(await request.read(), type=dict[str, str])["text"]
                    return web.json_response({"ordered": True})
                case "DELETE", "answer":
                    self._writer.fixed_answer = None
                    return web.json_response({"ordered": False})
                case "POST" | "DELETE", "faults":
                    return web.json_response(self._faults.change(request.method, await request.read()))
        except (ValueError, KeyError) as error:
            return web.json_response({"message": str(error)}, status=400)
        return web.json_response({"message": f"no {request.method} {path}"}, status=404)


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


async def serve(settings: LocalBedrockSettings, announce: Announce) -> None:
    """Run until cancelled."""
    service = BedrockStandIn(settings, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    server = _CountingServer(
        service.handle,
        service.stats,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=settings.local_idle_close_s,
    )
    service.server = server
    ca, chain = certificate_paths(settings.local_dir)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls, backlog=1024)
    port = listener.sockets[0].getsockname()[1]
    announce({"bedrock_url": f"https://127.0.0.1:{port}", "bedrock_ca": str(ca)})
    try:
        await asyncio.Event().wait()
    finally:
        listener.close()
        await server.shutdown(timeout=0.1)
