"""The stand-ins speak the services' own protocols: plain boto3, plain opensearch-py, any WebSocket client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from opensearchpy import OpenSearch

from mangalib.local.stack import Stack
from tests.conftest import Connect

NO_RETRY = Config(retries={"total_max_attempts": 1})


def aws(stack: Stack, **keys: str) -> boto3.Session:
    return boto3.Session(
        aws_access_key_id=keys.get("key", stack.addresses["aws_access_key_id"]),
        aws_secret_access_key=keys.get("secret", stack.addresses["aws_secret_access_key"]),
        region_name=keys.get("region", "us-west-2"),
    )


@pytest.fixture
def bedrock(stack: Stack) -> Iterator[Any]:
    client = aws(stack).client(
        "bedrock-runtime",
        endpoint_url=stack.addresses["bedrock_url"],
        verify=stack.addresses["bedrock_ca"],
        config=NO_RETRY,
    )
    yield client
    client.close()


def claude(text: str = "Tell me about Akira", **changes: Any) -> str:
    body = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": text}],
    }
    return json.dumps({name: value for name, value in {**body, **changes}.items() if value is not None})


HAIKU = "anthropic.claude-3-haiku-20240307-v1:0"


def stream(client: Any, body: str) -> list[dict[str, Any]]:
    answer = client.invoke_model_with_response_stream(modelId=HAIKU, body=body)
    return [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]


def test_boto3_reads_claudes_events_in_their_order(bedrock: Any) -> None:
    events = stream(bedrock, claude())
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    metrics = events[-1]["amazon-bedrock-invocationMetrics"]
    assert metrics["outputTokenCount"] == events[-2]["usage"]["output_tokens"]
    assert metrics["inputTokenCount"] == events[0]["message"]["usage"]["input_tokens"]
    assert metrics["invocationLatency"] >= metrics["firstByteLatency"] > 0
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


def test_the_same_question_gets_the_same_answer_streamed_or_whole(bedrock: Any) -> None:
    streamed = "".join(
        e["delta"].get("text", "") for e in stream(bedrock, claude()) if e["type"] == "content_block_delta"
    )
    answer = bedrock.invoke_model(modelId=HAIKU, body=claude())
    whole = json.loads(answer["body"].read())
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert whole["content"][0]["text"] == streamed
    assert int(headers["x-amzn-bedrock-output-token-count"]) == whole["usage"]["output_tokens"]
    assert {"x-amzn-bedrock-input-token-count", "x-amzn-bedrock-invocation-latency"} <= headers.keys()


def test_an_assistants_turn_is_continued(bedrock: Any) -> None:
    whole = json.loads(bedrock.invoke_model(modelId=HAIKU, body=claude())["body"].read())["content"][0]["text"]
    prefix = whole[:37].rstrip()
    turns = [{"role": "user", "content": "Tell me about Akira"}, {"role": "assistant", "content": prefix}]
    rest = json.loads(bedrock.invoke_model(modelId=HAIKU, body=claude(messages=turns))["body"].read())
    assert prefix + rest["content"][0]["text"] == whole


def test_max_tokens_ends_an_answer(bedrock: Any) -> None:
    events = stream(bedrock, claude(max_tokens=5))
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert events[-2]["usage"]["output_tokens"] == 5


def test_a_stop_sequence_ends_an_answer(bedrock: Any) -> None:
    events = stream(bedrock, claude(stop_sequences=["by"]))
    assert events[-2]["delta"]["stop_reason"] == "stop_sequence"
    assert not any(
        " by" in event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"
    )


@pytest.mark.parametrize(
    ("body", "model", "code", "status"),
    [
        (claude(anthropic_version="2023"), HAIKU, "ValidationException", 400),
        (claude(max_tokens=None), HAIKU, "ValidationException", 400),
        (claude(messages=[]), HAIKU, "ValidationException", 400),
        (claude(messages=[{"role": "assistant", "content": "hi"}]), HAIKU, "ValidationException", 400),
        (
            claude(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
            HAIKU,
            "ValidationException",
            400,
        ),
        (claude("  "), HAIKU, "ValidationException", 400),
        (
            claude(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]),
            HAIKU,
            "ValidationException",
            400,
        ),
        ("nonsense", HAIKU, "ValidationException", 400),
        (claude(), "anthropic.claude-9", "ResourceNotFoundException", 404),
    ],
)
def test_a_wrong_request_is_refused_in_the_services_words(
    bedrock: Any, body: str, model: str, code: str, status: int
) -> None:
    with pytest.raises(ClientError) as refused:
        bedrock.invoke_model_with_response_stream(modelId=model, body=body)
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize("wrong", [{"secret": "x" * 40}, {"key": "LOCALOTHER"}, {"region": "us-east-1"}])
def test_a_wrong_signature_is_refused(stack: Stack, wrong: dict[str, str]) -> None:
    client = aws(stack, **wrong).client(
        "bedrock-runtime",
        endpoint_url=stack.addresses["bedrock_url"],
        verify=stack.addresses["bedrock_ca"],
        config=NO_RETRY,
    )
    with pytest.raises(ClientError) as refused:
        client.invoke_model(modelId=HAIKU, body=claude())
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"
    client.close()


def test_exceptions_within_a_stream_reach_boto3_as_such(stack: Stack, bedrock: Any) -> None:
    stack.local("bedrock", "POST", "faults", {"kind": "model_stream_error", "after_events": 4})
    answer = bedrock.invoke_model_with_response_stream(modelId=HAIKU, body=claude())
    with pytest.raises(EventStreamError, match="modelStreamErrorException"), closing(answer["body"]) as body:
        for _ in body:
            continue


def test_an_invalid_fault_is_refused(stack: Stack) -> None:
    from mangalib.errors import StackError

    for service, order in (
        ("bedrock", {"kind": "meteor"}),
        ("bedrock", {"kind": "reset", "times": 0}),
        ("gateway", {"kind": "bad_json"}),
        ("opensearch", {"kind": "reset", "when": "now"}),
    ):
        with pytest.raises(StackError, match="400"):
            stack.local(service, "POST", "faults", order)
    with pytest.raises(StackError, match="400"):
        stack.local("bedrock", "POST", "profile", {"haiku_first_token_ms": -5})


async def test_the_management_api_posts_describes_and_closes(stack: Stack, plain: Connect) -> None:
    api = aws(stack).client("apigatewaymanagementapi", endpoint_url=stack.addresses["management_url"], config=NO_RETRY)
    async with plain("customer-011", user_agent_header="wire-test") as customer:
        await customer.frames(await customer.query("Hello there"))
        connection_id = await asyncio.to_thread(_connection_of, stack, "wire-test")
        about = await asyncio.to_thread(api.get_connection, ConnectionId=connection_id)
        assert about["Identity"]["SourceIp"] == "127.0.0.1"
        assert about["ConnectedAt"] <= about["LastActiveAt"]
        await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b'{"type": "pong"}')
        assert (await customer.next())["type"] == "pong"
        with pytest.raises(ClientError) as refused:
            await asyncio.to_thread(api.post_to_connection, ConnectionId=connection_id, Data=b"x" * 131_073)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
        await asyncio.to_thread(api.delete_connection, ConnectionId=connection_id)
        await customer.socket.wait_closed()
    with pytest.raises(api.exceptions.GoneException):
        await asyncio.to_thread(api.get_connection, ConnectionId=connection_id)
    with pytest.raises(api.exceptions.GoneException):
        await asyncio.to_thread(api.post_to_connection, ConnectionId="never=", Data=b"x")
    api.close()


def _connection_of(stack: Stack, user_agent: str) -> str:
    ids: list[str] = [c["id"] for c in stack.local("gateway", "GET", "connections") if c["user_agent"] == user_agent]
    return ids[-1]


def test_opensearch_py_works_unchanged(stack: Stack) -> None:
    client = OpenSearch(stack.addresses["opensearch_url"])
    index = "wire-test"
    vector = {"type": "knn_vector", "dimension": 2}
    assert client.info()["version"]["distribution"] == "opensearch"
    client.indices.create(index=index, body={"mappings": {"properties": {"v": vector}}})
    assert client.indices.exists(index=index)
    lines: list[dict[str, Any]] = []
    for number, v in enumerate([[1, 0], [0, 1], [1, 1]]):
        lines += [{"index": {"_index": index, "_id": str(number)}}, {"v": v, "n": number}]
    assert client.bulk(body=lines)["errors"] is False
    found = client.search(index=index, body={"size": 2, "query": {"knn": {"v": {"vector": [1, 0.1], "k": 2}}}})
    assert [hit["_id"] for hit in found["hits"]["hits"]] == ["0", "2"]
    assert found["hits"]["hits"][0]["_score"] == pytest.approx((1 + 1 / 1.01**0.5) / 2)
    client.index(index=index, id="9", body={"v": [0, -1]})
    assert client.get(index=index, id="9")["_source"] == {"v": [0, -1]}
    assert client.count(index=index)["count"] == 4
    client.delete(index=index, id="9")
    assert not client.exists(index=index, id="9")
    bad = client.bulk(body=[{"index": {"_index": index, "_id": "x"}}, {"v": [1, 2, 3]}])
    assert bad["errors"] is True
    client.indices.delete(index=index)
    with pytest.raises(Exception, match="no such index"):
        client.search(index=index, body={"query": {"match_all": {}}})
    client.close()
