"""Telemetry: one CloudWatch record in embedded metric format for each answer, and JSON log lines.

Neither contains a token, a question or an answer.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from mangalib.serving.answer_record import StreamMetrics, StreamState


def publish_answer(
    namespace: str, *, model_id: str, intent: str, state: StreamState, metrics: StreamMetrics, request_id: str
) -> None:
    """Write the record of one answer to standard output, from where CloudWatch's agent collects it."""
    # A new object for each record, because the library's shared one would mix concurrent answers.
    record = EphemeralMetrics(namespace=namespace)
    for name, value in {"model": model_id or "none", "intent": intent, "final_state": state.value}.items():
        record.add_dimension(name, value)
    record.add_metadata("request_id", request_id)
    total_ms = metrics.total_ms or 0.0
    if metrics.first_token_ms is not None:
        record.add_metric("first_token_latency_ms", MetricUnit.Milliseconds, metrics.first_token_ms)
        generating_s = (total_ms - metrics.first_token_ms) / 1000
        if generating_s > 0 and metrics.tokens:
            record.add_metric("tokens_per_second", MetricUnit.CountPerSecond, metrics.tokens / generating_s)
    record.add_metric("streaming_total_ms", MetricUnit.Milliseconds, total_ms)
    record.add_metric("streaming_tokens", MetricUnit.Count, metrics.tokens)
    record.add_metric("streaming_chunks_sent", MetricUnit.Count, metrics.chunks_sent)
    record.add_metric("stream_errors", MetricUnit.Count, int(state is StreamState.ERROR))
    record.add_metric("stream_cancellations", MetricUnit.Count, int(state is StreamState.CANCELLED))
    # Also by intent and in total, because alarms and dashboards cannot aggregate over dimensions.
    _write(record, [["intent"], []])


def publish_job(namespace: str, *, job: str, ok: bool, duration_s: float) -> None:
    """Write the record of one run of a scheduled job to standard output."""
    record = EphemeralMetrics(namespace=namespace)
    record.add_dimension("job", job)
    record.add_metric("job_failed", MetricUnit.Count, int(not ok))
    record.add_metric("job_duration_s", MetricUnit.Seconds, duration_s)
    _write(record, [[]])


def _write(record: EphemeralMetrics, also_by: list[list[str]]) -> None:
    line = record.serialize_metric_set()
    line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] += also_by
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class JsonFormatter(logging.Formatter):
    """One JSON object per line; ``extra={"request_id": ...}`` becomes a field."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line of JSON."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    """Write this process's log to standard error as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # These log each request at level INFO.
    for chatty in ("opensearch", "botocore", "websockets", "werkzeug"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
