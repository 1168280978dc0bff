"""Invalid input gets a clear error, and disturbs no other client."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mangalib.client import Client
from mangalib.local.stack import Stack
from tests.conftest import Connect, PlainClient, text_of


def _unsigned(claims: dict[str, object]) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


def _tokens(stack: Stack) -> dict[str, str]:
    settings = stack.settings
    secret, now = settings.jwt_secret.get_secret_value(), int(time.time())
    good = {"sub": "mallory", "aud": settings.jwt_audience, "iss": settings.jwt_issuer, "exp": now + 600}
    return {
        "missing": "",
        "not a token": "abc",
        "expired": jwt.encode({**good, "exp": now - 600}, secret, algorithm="HS256"),
        "without expiry": jwt.encode({k: v for k, v in good.items() if k != "exp"}, secret, algorithm="HS256"),
        "wrong audience": jwt.encode({**good, "aud": "someone-else"}, secret, algorithm="HS256"),
        "wrong issuer": jwt.encode({**good, "iss": "https://evil.example"}, secret, algorithm="HS256"),
        "wrong key": jwt.encode(good, "x" * 32, algorithm="HS256"),
        "other algorithm": jwt.encode(good, secret.ljust(64, "x"), algorithm="HS512"),
        "alg none": _unsigned(good),
        "empty subject": jwt.encode({**good, "sub": ""}, secret, algorithm="HS256"),
    }


async def test_no_valid_token_no_connection(stack: Stack) -> None:
    for name, token in _tokens(stack).items():
        for url, headers in (
            (f"{stack.addresses['websocket_url']}?token={token}", {}),
            (stack.addresses["websocket_url"], {"Authorization": f"Bearer {token}"}),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, additional_headers=headers, proxy=None).__aenter__()
            assert refused.value.response.status_code == 401, name


@pytest.mark.parametrize("session", ["a%0d%0aconnectionId:%20evil", "x" * 200])
async def test_a_crafted_session_id_is_refused(stack: Stack, session: str) -> None:
    url = f"{stack.addresses['websocket_url']}?token={stack.addresses['token']}&session={session}"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None).__aenter__()
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        ("hello", "bad_request", "not JSON"),
        ('{"action": "query"', "bad_request", "not JSON"),
        ("[1, 2]", "bad_request", "JSON list"),
        ('"query"', "bad_request", "JSON str"),
        ('{"text": "hi"}', "bad_request", "expected query, ping, disconnect or resume"),
        ('{"action": "fly"}', "bad_request", "'fly'"),
        ('{"action": 7}', "bad_request", "'7'"),
        ('{"action": "query"}', "bad_request", "text"),
        ('{"action": "query", "text": 5}', "bad_request", "text"),
        ('{"action": "query", "text": ""}', "bad_request", "text: empty"),
        ('{"action": "query", "text": " \\n\\t "}', "bad_request", "text: empty"),
        ('{"action": "query", "text": "hi", "intent": "flirt"}', "bad_request", "'flirt'"),
        ('{"action": "query", "text": "hi", "request_id": ""}', "bad_request", "request_id"),
        (json.dumps({"action": "query", "text": "hi", "request_id": "x" * 200}), "bad_request", "200 characters"),
        ('{"action": "resume", "request_id": "never-was", "after": -1}', "not_found", "never-was"),
        ('{"action": "resume", "request_id": "never-was", "after": 3}', "interrupted", "ask again"),
        ('{"action": "resume", "request_id": "r"}', "bad_request", "after"),
        ("[" * 5000, "bad_request", "not JSON"),
    ],
)
async def test_an_invalid_frame_is_answered_with_an_error(plain: Connect, message: str, code: str, says: str) -> None:
    async with plain() as customer:
        await customer.socket.send(message)
        frame = await customer.next()
        assert (frame["type"], frame["code"]) == ("error", code)
        assert says in frame["message"]
        await customer.send(action="ping")
        assert (await customer.next())["type"] == "pong", "the connection goes on"


async def test_binary_frames_are_accepted(plain: Connect) -> None:
    async with plain() as customer:
        await customer.socket.send(b'{"action": "ping"}')
        assert (await customer.next())["type"] == "pong"


@pytest.mark.parametrize("size", [40_000, 140_000])
async def test_a_frame_over_the_limit_closes_with_1009(plain: Connect, size: int) -> None:
    async with plain() as customer:
        with pytest.raises(ConnectionClosed) as closed:
            await customer.query("x" * size)
            await customer.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_message_over_the_limit_in_small_frames_closes_with_1009(plain: Connect) -> None:
    async with plain() as customer:
        with pytest.raises(ConnectionClosed) as closed:
            await customer.socket.send(["x" * 8000] * 20)
            await customer.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_hundred_thousand_characters_are_too_many_and_our_client_can_say_so(stack: Stack) -> None:
    async with Client(stack.addresses["websocket_url"], stack.addresses["token"], settings=stack.settings) as client:
        reply = await client.answer("日本" * 15_000)
        assert reply.error is not None
        assert reply.error.code == "bad_request"
        assert "30000 characters; expected at most 8000" in reply.error.message
        reply = await client.answer("x" * 100_000)
        assert reply.error is not None
        assert "100000 characters" in reply.error.message


async def test_two_hundred_messages_in_a_second_are_rate_limited_and_disturb_no_other_client(plain: Connect) -> None:
    async def flood(customer: PlainClient) -> list[dict[str, object]]:
        for _ in range(200):
            await customer.send(action="ping")
        frames = [await customer.next() for _ in range(101)]
        await asyncio.sleep(1.1)
        await customer.send(action="ping")
        return [*frames, await customer.next()]

    async with plain() as noisy, plain("customer-006") as other:
        request_id = await other.query("Tell me about One Piece")
        flooded, answered = await asyncio.gather(flood(noisy), other.frames(request_id))
    kinds = [frame["type"] for frame in flooded[:-1]]
    assert kinds.count("pong") == 100
    assert [frame["code"] for frame in flooded if frame["type"] == "error"] == ["rate_limited"], "said once"
    assert flooded[-1]["type"] == "pong", "a second later all is well"
    assert answered[-1]["type"] == "done"


async def test_too_many_answers_at_once_on_one_connection_are_busy(stack: Stack, plain: Connect) -> None:
    async with plain() as customer:
        ids = [await customer.query("Tell me about Bleach") for _ in range(stack.settings.max_running_answers + 1)]
        frame = await customer.next("error")
        assert (frame["code"], frame["request_id"]) == ("busy", ids[-1])


async def test_a_request_id_that_is_running_is_refused(plain: Connect) -> None:
    async with plain() as customer:
        request_id = await customer.query("Tell me about Bleach")
        await customer.query("Tell me about Naruto", request_id=request_id)
        error = await customer.next("error")
        assert "running already" in error["message"]


async def test_html_in_a_question_is_only_text(plain: Connect) -> None:
    async with plain() as customer:
        frames = await customer.frames(await customer.query("<script>alert(1)</script> Tell me about One Piece"))
    assert frames[-1]["type"] == "done"
    assert "One Piece" in text_of(frames)


async def test_a_slow_client_is_waited_for_and_slows_no_other(stack: Stack, plain: Connect) -> None:
    """One client reads nothing while its buffers are small; the other's answers come all the same."""
    async with plain("customer-007", max_queue=1) as slow, plain("customer-008") as quick:
        slow.socket.transport.pause_reading()
        ids = [await slow.query(f"Tell me about Bleach, slowly, {number}") for number in range(4)]
        for _ in range(3):
            frames = await quick.frames(await quick.query("Tell me about Bleach"))
            assert frames[-1]["type"] == "done"
        slow.socket.transport.resume_reading()
        ended = set()
        while ended != set(ids):
            frame = await slow.next("done", "error")
            assert frame["type"] == "done"
            ended.add(frame["request_id"])


async def test_an_unknown_connection_is_told_to_connect_again(stack: Stack) -> None:
    import aiohttp

    url = json.loads((stack.folder / "orchestrator.json").read_text())["orchestrator_url"]
    async with aiohttp.ClientSession() as http:
        async with http.post(url, data=b"{}", headers={"connectionId": "unknown=", "routeKey": "query"}) as answer:
            assert answer.status == 200
        async with http.post(url, data=b"{}", headers={}) as answer:
            assert answer.status == 400
