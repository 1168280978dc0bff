"""Every dependency fails in every way at every moment of an answer; what the customer is left with is what is promised.

Proxies stand between an orchestrator and all that it uses. Its table in the documents is written by this run.
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
TABLES_BEGIN = "<!-- written by tests/faults -->\n"

SAID = " ".join(f"word{number}" for number in range(40))
SIMPLE, RETRIEVAL, KNOWN = "Hello there", "Tell me about One Piece", "What is your return policy?"
QUESTIONS = {"Bedrock": SIMPLE, "gateway": SIMPLE, "management API": SIMPLE}
# A dependency without which nothing can be shown comes back in the middle of it; the others not before its end.
ON_THE_WAY = ("gateway", "management API")
LASTS_S = 0.5
WITHIN_S = 20.0

PATIENCE = {
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
# Patient for as long as a process needs to start again, however busy the machine: what ends a cell is WITHIN_S.
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
PLACES: dict[str, dict[str, object]] = {
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


class House:
    """A stack, an orchestrator that reaches it through proxies only, and what breaks them."""

    def __init__(self, stack: Stack, folder: Path, proxies: dict[str, FaultProxy]) -> None:
        self.stack = stack
        self.proxies = proxies
        self._folder = folder
        self._started = 0
        self.said: dict[str, str] = {}

    def through(self, dependency: str) -> str:
        """The URL of a dependency by way of its proxy."""
        return urlsplit(self._url(dependency))._replace(netloc=f"127.0.0.1:{self.proxies[dependency].port}").geturl()

    def _url(self, dependency: str) -> str:
        url: str = self.stack.addresses[SERVICE[dependency][1]]
        return url

    async def local(self, service: str, method: str, path: str, body: object = None) -> object:
        return await asyncio.to_thread(self.stack.local, service, method, path, body)

    async def hold(self, moment: str) -> None:
        await self.local("bedrock", "POST", "faults", {"kind": "stall", **PLACES[moment]})

    async def break_(self, dependency: str, kind: str) -> None:
        proxy = self.proxies[dependency]
        if kind == "process killed":
            service, _ = SERVICE[dependency]
            process = self.stack.processes[service]
            if service == "redis":
                os.kill(int(self.stack.addresses["redis_pid"]), signal.SIGKILL)
            process.kill()
            await asyncio.to_thread(process.wait)
            await proxy.turn("reset")
        elif (dependency, kind) in ANSWERS:
            proxy.answer = ANSWERS[dependency, kind]
            await proxy.turn("answer")
        elif kind in {"throttled", "internal error"}:
            service = {"management API": "gateway"}.get(dependency, dependency.lower())
            fault = {"kind": IN_STREAM[kind], "times": 1000}
            await self.local(service, "POST", "faults", fault)
        else:
            await proxy.turn(kind)

    async def mend(self, dependency: str, kind: str) -> None:
        if kind == "process killed":
            await self._start_again(SERVICE[dependency][0])
        await self.proxies[dependency].turn("pass")
        for service in ("bedrock", "gateway", "opensearch"):
            await self.local(service, "DELETE", "faults")

    async def _start_again(self, service: str) -> None:
        self._started += 1
        ready_file = self._folder / f"{service}-{self._started}.json"
        process, addresses = await asyncio.to_thread(self.stack.start, service, ready_file)
        stdin = self.stack.processes[service].stdin
        assert stdin is not None
        stdin.close()
        self.stack.processes[service] = process
        self.stack.addresses.update(addresses)
        # Filled before anybody reaches it: one that comes back empty would be another fault.
        await self._fill_again(service)
        for dependency, (name, address) in SERVICE.items():
            if name == service:
                self.proxies[dependency].target = urlsplit(addresses[address]).port or 0

    async def _fill_again(self, service: str) -> None:
        names = ("bedrock_url", "redis_url", "opensearch_url", "aws_url")
        here = self.stack.settings.model_copy(update={name: self.stack.addresses[name] for name in names})
        match service:
            case "aws":
                await asyncio.to_thread(seed.seed_dynamodb, here)
            case "opensearch":
                await asyncio.to_thread(seed.seed_opensearch, here)
            case "redis":
                await seed.seed_redis(here)
            case "bedrock":
                await self.local("bedrock", "PUT", "answer", {"text": SAID})
            case "gateway":
                await self.integrate()

    async def integrate(self) -> None:
        """The gateway's back end is this house's orchestrator."""
        await self.local("gateway", "PUT", "integration", {"urls": [self.stack.addresses["here_url"]]})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("faults")
    async with AsyncExitStack() as open_:
        starting = running_stack(quiet=True, **{**QUICK, **PATIENCE})
        stack = await asyncio.to_thread(open_.enter_context, starting)
        stack.addresses["redis_pid"] = _redis_pid(stack)
        environment = open_.enter_context(pytest.MonkeyPatch.context())
        for name in ("aws_access_key_id", "aws_secret_access_key"):
            environment.setenv(name.upper(), stack.addresses[name])
        proxies = {
            dependency: await open_.enter_async_context(FaultProxy(urlsplit(stack.addresses[address]).port or 0))
            for dependency, (_, address) in SERVICE.items()
        }
        house = House(stack, folder, proxies)
        changes = {
            address: house.through(dependency)
            for dependency, (_, address) in SERVICE.items()
            if dependency != "gateway"
        }
        process, addresses = await asyncio.to_thread(
            stack.start, "orchestrator", folder / "orchestrator.json", **changes
        )
        try:
            stack.addresses["here_url"] = addresses["orchestrator_url"]
            await house.integrate()
            await house.local("bedrock", "PUT", "answer", {"text": SAID})
            house.said = {question: await whole_answer(house, question) for question in (SIMPLE, RETRIEVAL, KNOWN)}
            yield house
            assert process.poll() is None, "the orchestrator outlived all of it"
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            assert process.stdin is not None
            process.stdin.close()


def _redis_pid(stack: Stack) -> str:
    return str(json.loads((stack.folder / "redis.json").read_text())["redis_pid"])


def client_of(house: House, *, direct: bool = False) -> Client:
    settings = house.stack.settings.model_copy(update=CUSTOMER)
    url = house.stack.addresses["websocket_url"] if direct else house.through("gateway")
    return Client(url, house.stack.addresses["token"], settings=settings)


class Asking:
    """A question under way: what has come of it so far."""

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
        assert [seq for seq in seqs if seq is not None] == list(range(len(seqs))), "no frame twice, none missing"

    async def reaches(self, moment: str, house: House) -> None:
        async with asyncio.timeout(WITHIN_S):
            while (await asyncio.to_thread(house.stack.bedrock_stats))["held"] == 0:
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


SEEN: dict[tuple[str, str, str], str] = {}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dependency", DEPENDENCIES)
async def test_it_ends_as_promised_and_recovers(house: House, dependency: str, kind: str, moment: str) -> None:
    question = QUESTIONS.get(dependency, RETRIEVAL)
    if (dependency, moment) == ("Redis", "before"):
        question = KNOWN  # only a question whose answer is known to be there is asked of Redis before it is made
    said = house.said[question]
    async with AsyncExitStack() as open_:
        client = await open_.enter_async_context(client_of(house))
        asking = Asking(client, question)
        in_stream = dependency == "Bedrock" and kind in IN_STREAM
        if in_stream:
            await house.local("bedrock", "POST", "faults", {"kind": IN_STREAM[kind], "times": 1000, **PLACES[moment]})
        elif moment == "before":
            await house.break_(dependency, kind)
        else:
            await house.hold(moment)
        running = asyncio.create_task(asking.run())
        if moment != "before" and not in_stream:
            await asking.reaches(moment, house)
            await house.break_(dependency, kind)
            if not (dependency == "Bedrock" and kind == "process killed"):
                await house.local("bedrock", "DELETE", "faults")  # the model goes on
        if dependency in ON_THE_WAY:
            await asyncio.sleep(LASTS_S)
            await house.mend(dependency, kind)
        async with asyncio.timeout(WITHIN_S):
            await running
    if dependency not in ON_THE_WAY:
        await house.mend(dependency, kind)
    SEEN[dependency, kind, moment] = asking.ending
    assert asking.ending == EXPECTED[dependency, kind, moment]
    assert said.startswith(asking.reply.text) or asking.reply.text == SAID
    if asking.ending.startswith("whole"):
        assert asking.reply.text in {said, SAID}
    await whole_answer(house, question)


async def whole_answer(house: House, question: str) -> str:
    """The text of an answer when nothing is broken, as soon as that is so."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with suppress(TransportError):
                async with client_of(house) as client:
                    reply = await client.answer(question)
                if reply.metadata is not None and not reply.metadata.degraded:
                    return reply.text
            await asyncio.sleep(0.05)


async def test_the_table_in_the_documents_is_what_was_seen() -> None:
    if len(SEEN) < len(EXPECTED):
        pytest.skip("only a part of the matrix was run")
    head, _, before = DOCUMENT.read_text(encoding="utf-8").partition(TABLES_BEGIN)
    now = "\n" + table(SEEN)
    if now != before:
        DOCUMENT.write_text(head + TABLES_BEGIN + now, encoding="utf-8")
    assert now == before, "docs/faults.md was not what was seen; it has been written again"
