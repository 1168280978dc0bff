"""Claims of SECURITY.md without a test elsewhere; and that each of its claims names a test."""

from __future__ import annotations

import ast
import asyncio
import random
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mangalib.aws.signing import path_segment
from mangalib.client import Client, Reply
from mangalib.errors import DataError, ScheduleError
from mangalib.jobs import job_of, open_runs, read_schedule, run_job
from mangalib.local.stack import Stack
from mangalib.precompute.prediction.session_log import SessionLog
from mangalib.settings import Settings, load_settings
from tests.small_notebooks import RECORD, write_notebook

PROJECT = Path(__file__).resolve().parents[2]
LOOPBACK = {"127.0.0.1", "::1"}


async def ask(stack: Stack, customer: str, text: str, **options: Any) -> Reply:
    async with Client(
        stack.addresses["websocket_url"], stack.token_for(customer), settings=stack.settings, **options
    ) as client:
        return await client.answer(text)


# Network access


def test_the_stack_listens_on_loopback_alone(stack: Stack) -> None:
    listening = [
        connection.laddr.ip
        for service in stack.processes.values()
        for process in [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= len(stack.processes)
    assert set(listening) <= LOOPBACK


def test_the_stacks_folder_with_keys_and_logs_is_readable_by_its_owner_only(stack: Stack) -> None:
    assert stat.S_IMODE(stack.folder.stat().st_mode) == 0o700


def test_nothing_listens_beyond_loopback_unless_configured() -> None:
    assert Settings(_env_file=None).orchestrator_host in LOOPBACK
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT / "mangalib").rglob("*.py")]
    assert not any("0.0.0.0" in source for source in sources)


# Secrets


async def test_no_secret_and_no_word_of_a_customer_is_in_any_log(stack: Stack) -> None:
    word = "zx" + secrets.token_hex(8)
    await ask(stack, "customer-031", f"Tell me about {word}")
    stack.local("bedrock", "POST", "faults", {"kind": "model_stream_error", "after_events": 12})
    assert (await ask(stack, "customer-031", f"Recommend {word} to me")).error is not None
    stack.local("gateway", "DELETE", "connections")
    assert stack.settings.jwt_secret is not None
    secret = {
        "the question": word,
        "a token": stack.addresses["token"],
        "a customer's token": stack.token_for("customer-031")[:60],
        "the key of tokens": stack.settings.jwt_secret.get_secret_value(),
        "AWS's secret key": stack.addresses["aws_secret_access_key"],
    }
    for service in stack.processes:
        log = stack.log_of(service)
        assert [what for what, text in secret.items() if text in log] == [], service
    assert "model_error" in stack.log_of("orchestrator"), "the failure itself is logged"


def test_no_committed_notebook_holds_a_token_or_a_key() -> None:
    secret = re.compile(r"eyJ[\w-]{10,}\.eyJ|AKIA[0-9A-Z]{12}|aws_secret_access_key\W+[\w/+]{20}")
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        assert secret.search(path.read_text(encoding="utf-8")) is None, path.name


# Between customers


async def test_another_customers_session_id_gives_no_access(stack: Stack) -> None:
    """The model's input tokens show its context: another customer's session id gives no more than a new session."""
    session = "shared-" + secrets.token_hex(8)
    question = "Tell me about One Piece"
    for turn in range(2):
        mine = await ask(stack, "customer-032", f"My secret wish is {'very ' * 40} private, {turn}", session_id=session)
        assert mine.error is None

    async def read_by_the_model(customer: str, session_id: str) -> int:
        reply = await ask(stack, customer, question, session_id=session_id)
        assert reply.metadata is not None
        return reply.metadata.input_tokens

    fresh = await read_by_the_model("customer-033", "fresh-" + secrets.token_hex(8))
    assert await read_by_the_model("customer-033", session) == fresh
    async with asyncio.timeout(10):  # a conversation is saved shortly after its answer
        while await read_by_the_model("customer-032", session) <= fresh + 40:
            await asyncio.sleep(0.1)


# Injection

HOSTILE = [
    "'); DROP TABLE events; --",
    '{"query": {"match_all": {}}}',
    "${jndi:ldap://127.0.0.1/x} {{7*7}} %s %n",
    "\r\nconnectionId: other\r\n\r\nGET / HTTP/1.1",
    "*3\r\n$8\r\nFLUSHALL\r\n",
    "</script><script>alert(1)</script>\u202e\u0000",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_question_is_data_to_every_service(stack: Stack, text: str) -> None:
    reply = await ask(stack, "customer-034", f"Tell me about One Piece {text}")
    assert reply.error is None
    assert reply.metadata is not None
    assert reply.metadata.degraded == [], "no service failed on it"
    log = stack.log_of("orchestrator").splitlines()
    assert all(line.startswith("{") for line in log), "no line of the log is a customer's"


def test_an_id_cannot_escape_from_its_path_segment() -> None:
    assert path_segment("../../prod?x=1\r\nHost: evil") == "..%2F..%2Fprod%3Fx%3D1%0D%0AHost%3A%20evil"


@pytest.mark.parametrize("value", ['"; import os; os._exit(1) #', "\\'''\"\"\"\nraise SystemExit", "{number!r} %s"])
def test_a_notebooks_parameter_is_a_value_and_never_code(tmp_path: Path, value: str) -> None:
    notebook = write_notebook(tmp_path / "tiny.ipynb", RECORD.replace("number={number}", "x"), parameters="number = ''")
    settings = load_settings()
    runs = open_runs(tmp_path / "runs", settings)
    run = run_job(job_of(notebook, {"number": value}, timeout_s=100), runs, settings)
    assert run.ok, run.record.error
    assert run.record.results["number"] == value


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [touch {created}]", "!!python/name:os.system", "!!python/module:os"]
)
def test_a_schedule_creates_no_yaml_objects(tmp_path: Path, tag: str) -> None:
    created, path = tmp_path / "created", tmp_path / "schedule.yaml"
    text = "jobs:\n  - name: a\n    cron: 0 0 * * *\n    notebook: n\n    parameters: "
    path.write_text(text + tag.format(created=created) + "\n")
    with pytest.raises(ScheduleError, match="could not determine a constructor"):
        read_schedule(path, load_settings())
    assert not created.exists()


def test_names_and_values_of_a_log_are_data(tmp_path: Path) -> None:
    path = tmp_path / "log'); ATTACH 'x.db'; --.csv"
    rows = "".join(f'"{text}",2024-01-01T00:00:00Z,faq\n' for text in ("a'; DROP TABLE x; --", "b", "$(reboot)"))
    path.write_text("session_id,at,intent\n" + rows)
    assert len(SessionLog(path, session_events_max=10).read_all()) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_a_damaged_parquet_file_is_refused_in_words(tmp_path: Path) -> None:
    path, rng = tmp_path / "log.parquet", random.Random(1)
    table = {"session_id": ["a"] * 50, "at": ["2024-01-01T00:00:00Z"] * 50, "intent": ["faq"] * 50}
    pq.write_table(pa.table(table), path)
    good, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 4, 40))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        try:
            SessionLog(path, session_events_max=10).read_all()
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 100


# Dependencies


def test_what_is_installed_is_what_was_pinned() -> None:
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lock) > 50
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[\w.!+]+( ; .+)?", line) for line in lock)


# The document


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_claim_names_tests_that_exist() -> None:
    claims = [
        line.split("|")[1:3]
        for line in (PROJECT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| claim")
    ]
    assert len(claims) > 20
    for claim, tests in claims:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert named, f"no test for: {claim}"
        for path, name in named:
            assert name in _tests_in(PROJECT / path), f"{path}::{name} is not there, for: {claim}"
