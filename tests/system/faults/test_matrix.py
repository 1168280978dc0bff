"""Every dependency fails in every way at every moment of an answer; the customer receives what the matrix specifies.

Proxies are between an orchestrator and all of its dependencies. This run writes the tables in docs/faults.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from mangalib.client import Client, Reply
from mangalib.errors import TransportError
from mangalib.local import seed
from mangalib.local.stack import Stack, running_stack
from mangalib.protocol.frames import Chunk
from tests.conftest import QUICK
from tests.system.faults.matrix import DEPENDENCIES, EXPECTED, KINDS, MOMENTS, table
from tests.system.faults.proxy import FaultProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "faults.md"
TABLES_BEGIN = "<!-- written by tests/system/faults -->\n"

MODEL_TEXT = " ".join(f"word{number}" for number in range(40))
SIMPLE, RETRIEVAL, STORED = "Hello there", "Tell me about One Piece", "What is your return policy?"
QUESTIONS = {"Bedrock": SIMPLE, "gateway": SIMPLE, "management API": SIMPLE}
# A dependency without which nothing can be shown recovers during the answer; the others only after its end.
DELIVERING = ("gateway", "management API")
OUTAGE_S = 0.5
WITHIN_S = 20.0

TIME_OUTS = {
    "stream_timeout_s": 7,
    "local_inter_token_ms": 2,
    "send_timeout_s": 1,
    "connect_timeout_s": 1,
    "acquire_timeout_s": 1,
    "knn_deadline_ms": 2000,
    "profile_deadline_ms": 2000,
    "cache_budget_ms": 1500,
    "breaker_pause_s": 0.2,
}
# Clients wait as long as a process needs to restart on a busy machine; WITHIN_S bounds each cell.
CUSTOMER = {"resume_after_silence_s": 0.7, "reconnect_attempts": 10_000, "reconnect_backoff_max_ms": 100}

SERVICE = {
    "Bedrock": ("bedrock", "bedrock_url"),
    "gateway": ("gateway", "websocket_url"),
    "management API": ("gateway", "management_url"),
    "Redis": ("redis", "redis_url"),
    "OpenSearch": ("opensearch", "opensearch_url"),
    "DynamoDB": ("aws", "aws_url"),
}
IN_STREAM = {"throttled": "throttle", "internal error": "internal", "wrong bytes": "bad_json"}
FAULT_POSITIONS: dict[str, dict[str, object]] = {
    "before": {},
    "first token": {"before_event": "content_block_delta"},
    "middle": {"after_events": 14},
    "end": {"before_event": "message_stop"},
}


def http_answer(status: str, body: bytes = b"{}") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def redis_error(sent: bytes, error: bytes) -> bytes:
    return error * (sent.startswith(b"*") + sent.count(b"\r\n*"))


ANSWERS = {
    ("gateway", "throttled"): lambda sent: http_answer("429 Too Many Requests"),
    ("gateway", "internal error"): lambda sent: http_answer("500 Internal Server Error"),
    ("Redis", "throttled"): lambda sent: redis_error(sent, b"-ERR max number of clients reached\r\n"),
    ("Redis", "internal error"): lambda sent: redis_error(sent, b"-LOADING Redis is loading the dataset in memory\r\n"),
    ("DynamoDB", "throttled"): lambda sent: http_answer(
        "400 Bad Request", b'{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'
    ),
    ("DynamoDB", "internal error"): lambda sent: http_answer(
        "500 Internal Server Error", b'{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError"}'
    ),
}


class FaultTestbed:
    """A stack, an orchestrator that reaches it only through proxies, and the injection of faults into them."""

    def __init__(self, stack: Stack, folder: Path, proxies: dict[str, FaultProxy]) -> None:
        self.stack = stack
        self.proxies = proxies
        self._folder = folder
        self._started = 0
        self.expected_texts: dict[str, str] = {}

    def proxied_url(self, dependency: str) -> str:
        """The URL of a dependency through its proxy."""
        return urlsplit(self._url(dependency))._replace(netloc=f"127.0.0.1:{self.proxies[dependency].port}").geturl()

    def _url(self, dependency: str) -> str:
        url: str = self.stack.addresses[SERVICE[dependency][1]]
        return url

    async def admin(self, service: str, method: str, path: str, body: object = None) -> object:
        return await asyncio.to_thread(self.stack.local, service, method, path, body)

    async def hold(self, moment: str) -> None:
        await self.admin("bedrock", "POST", "faults", {"kind": "stall", **FAULT_POSITIONS[moment]})

    async def inject(self, dependency: str, kind: str) -> None:
        proxy = self.proxies[dependency]
        if kind == "process killed":
            service, _ = SERVICE[dependency]
            process = self.stack.processes[service]
            if service == "redis":
                os.kill(int(self.stack.addresses["redis_pid"]), signal.SIGKILL)
            process.kill()
            await asyncio.to_thread(process.wait)
            await proxy.set_mode("reset")
        elif (dependency, kind) in ANSWERS:
            proxy.answer = ANSWERS[dependency, kind]
            await proxy.set_mode("answer")
        elif kind in {"throttled", "internal error"}:
            service = {"management API": "gateway"}.get(dependency, dependency.lower())
            fault = {"kind": IN_STREAM[kind], "times": 1000}
            await self.admin(service, "POST", "faults", fault)
        else:
            await proxy.set_mode(kind)

    async def recover(self, dependency: str, kind: str) -> None:
        if kind == "process killed":
            await self._restart(SERVICE[dependency][0])
        await self.proxies[dependency].set_mode("pass")
        for service in ("bedrock", "gateway", "opensearch"):
            await self.admin(service, "DELETE", "faults")

    async def _restart(self, service: str) -> None:
        self._started += 1
        ready_file = self._folder / f"{service}-{self._started}.json"
        process, addresses = await asyncio.to_thread(self.stack.start, service, ready_file)
        stdin = self.stack.processes[service].stdin
        assert stdin is not None
        stdin.close()
        self.stack.processes[service] = process
        self.stack.addresses.update(addresses)
        # Seeded before it is reachable: a service that restarts empty would be another fault.
        await self._seed_again(service)
        for dependency, (name, address) in SERVICE.items():
            if name == service:
                self.proxies[dependency].target = urlsplit(addresses[address]).port or 0

    async def _seed_again(self, service: str) -> None:
        names = ("bedrock_url", "redis_url", "opensearch_url", "aws_url")
        settings = self.stack.settings.model_copy(update={name: self.stack.addresses[name] for name in names})
        match service:
            case "aws":
                await asyncio.to_thread(seed.seed_dynamodb, settings)
            case "opensearch":
                await asyncio.to_thread(seed.seed_opensearch, settings)
            case "redis":
                await seed.seed_redis(settings)
            case "bedrock":
                await self.admin("bedrock", "PUT", "answer", {"text": MODEL_TEXT})
            case "gateway":
                await self.integrate()

    async def integrate(self) -> None:
        """Make this testbed's orchestrator the gateway's back end."""
        await self.admin("gateway", "PUT", "integration", {"urls": [self.stack.addresses["proxied_orchestrator_url"]]})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def testbed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultTestbed]:
    folder = tmp_path_factory.mktemp("faults")
    async with AsyncExitStack() as open_:
        starting = running_stack(quiet=True, **{**QUICK, **TIME_OUTS})
        stack = await asyncio.to_thread(open_.enter_context, starting)
        stack.addresses["redis_pid"] = _redis_pid(stack)
        environment = open_.enter_context(pytest.MonkeyPatch.context())
        for name in ("aws_access_key_id", "aws_secret_access_key"):
            environment.setenv(name.upper(), stack.addresses[name])
        proxies = {
            dependency: await open_.enter_async_context(FaultProxy(urlsplit(stack.addresses[address]).port or 0))
            for dependency, (_, address) in SERVICE.items()
        }
        testbed = FaultTestbed(stack, folder, proxies)
        changes = {
            address: testbed.proxied_url(dependency)
            for dependency, (_, address) in SERVICE.items()
            if dependency != "gateway"
        }
        process, addresses = await asyncio.to_thread(
            stack.start, "orchestrator", folder / "orchestrator.json", **changes
        )
        try:
            stack.addresses["proxied_orchestrator_url"] = addresses["orchestrator_url"]
            await testbed.integrate()
            await testbed.admin("bedrock", "PUT", "answer", {"text": MODEL_TEXT})
            testbed.expected_texts = {
                question: await whole_answer(testbed, question) for question in (SIMPLE, RETRIEVAL, STORED)
            }
            yield testbed
            assert process.poll() is None, "the orchestrator survived every fault"
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            assert process.stdin is not None
            process.stdin.close()


def _redis_pid(stack: Stack) -> str:
    return str(json.loads((stack.folder / "redis.json").read_text())["redis_pid"])


def client_of(testbed: FaultTestbed, *, direct: bool = False) -> Client:
    settings = testbed.stack.settings.model_copy(update=CUSTOMER)
    url = testbed.stack.addresses["websocket_url"] if direct else testbed.proxied_url("gateway")
    return Client(url, testbed.stack.addresses["token"], settings=settings)


class PendingAnswer:
    """A question and the part of its answer received so far."""

    def __init__(self, client: Client, question: str) -> None:
        self.reply = Reply("")
        self._client, self._question = client, question

    async def run(self) -> None:
        seqs = []
        try:
            async for received in self._client.ask(self._question):
                frame = received.frame
                seqs.append(getattr(frame, "seq", None))
                if isinstance(frame, Chunk):
                    self.reply.text += frame.text
                self.reply.metadata = getattr(frame, "metadata", None)
                self.reply.error = frame if hasattr(frame, "code") else None
        except TransportError as error:
            self.reply.metadata = None
            self.lost = str(error)
        assert [seq for seq in seqs if seq is not None] == list(range(len(seqs))), "no frame repeated or missing"

    async def reaches(self, moment: str, testbed: FaultTestbed) -> None:
        async with asyncio.timeout(WITHIN_S):
            while (await asyncio.to_thread(testbed.stack.bedrock_stats))["held"] == 0:
                await asyncio.sleep(0.01)
            while moment != "first token" and not self.reply.text:
                await asyncio.sleep(0.01)

    @property
    def ending(self) -> str:
        reply = self.reply
        if reply.metadata is not None:
            return "whole" + "".join(f", without {name}" for name in reply.metadata.degraded)
        kept = "text kept, " if reply.text else ""
        return kept + (reply.error.code if reply.error is not None else f"lost: {self.lost}")


OBSERVED: dict[tuple[str, str, str], str] = {}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dependency", DEPENDENCIES)
async def test_an_answer_ends_as_specified_and_the_next_one_is_whole(
    testbed: FaultTestbed, dependency: str, kind: str, moment: str
) -> None:
    question = QUESTIONS.get(dependency, RETRIEVAL)
    if (dependency, moment) == ("Redis", "before"):
        question = STORED  # only a question with a stored answer reads Redis before generation
    expected = testbed.expected_texts[question]
    async with AsyncExitStack() as open_:
        client = await open_.enter_async_context(client_of(testbed))
        pending = PendingAnswer(client, question)
        in_stream = dependency == "Bedrock" and kind in IN_STREAM
        if in_stream:
            await testbed.admin(
                "bedrock", "POST", "faults", {"kind": IN_STREAM[kind], "times": 1000, **FAULT_POSITIONS[moment]}
            )
        elif moment == "before":
            await testbed.inject(dependency, kind)
        else:
            await testbed.hold(moment)
        running = asyncio.create_task(pending.run())
        if moment != "before" and not in_stream:
            await pending.reaches(moment, testbed)
            await testbed.inject(dependency, kind)
            if not (dependency == "Bedrock" and kind == "process killed"):
                await testbed.admin("bedrock", "DELETE", "faults")  # the model continues
        if dependency in DELIVERING:
            await asyncio.sleep(OUTAGE_S)
            await testbed.recover(dependency, kind)
        async with asyncio.timeout(WITHIN_S):
            await running
    if dependency not in DELIVERING:
        await testbed.recover(dependency, kind)
    OBSERVED[dependency, kind, moment] = pending.ending
    assert pending.ending == EXPECTED[dependency, kind, moment]
    assert expected.startswith(pending.reply.text) or pending.reply.text == MODEL_TEXT
    if pending.ending.startswith("whole"):
        assert pending.reply.text in {expected, MODEL_TEXT}
    await whole_answer(testbed, question)


async def whole_answer(testbed: FaultTestbed, question: str) -> str:
    """Ask until an answer is complete and not degraded; returns its text."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with suppress(TransportError):
                async with client_of(testbed) as client:
                    reply = await client.answer(question)
                if reply.metadata is not None and not reply.metadata.degraded:
                    return reply.text
            await asyncio.sleep(0.05)


async def test_the_documented_tables_are_what_was_observed() -> None:
    if len(OBSERVED) < len(EXPECTED):
        pytest.skip("only part of the matrix was run")
    head, _, before = DOCUMENT.read_text(encoding="utf-8").partition(TABLES_BEGIN)
    current = "\n" + table(OBSERVED)
    if current != before:
        DOCUMENT.write_text(head + TABLES_BEGIN + current, encoding="utf-8")
    assert current == before, "docs/faults.md differed from the observed endings and has been rewritten"
