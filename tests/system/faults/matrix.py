"""The specified ending for each dependency, each kind of failure, and each moment of an answer; and their table.

An ending is what the customer receives:

    whole                    the complete answer, no text repeated
    whole, without X         the complete answer, generated without the data of X (named in ``done.metadata.degraded``)
    CODE                     one error frame with that code, before any text
    text kept, CODE          ... after text, which stays; nothing was retried
"""

from __future__ import annotations

DEPENDENCIES = ("Bedrock", "gateway", "management API", "Redis", "OpenSearch", "DynamoDB")
KINDS = ("refused", "reset", "stalled", "slow", "wrong bytes", "throttled", "internal error", "process killed")
MOMENTS = ("before", "first token", "middle", "end")

WHOLE = "whole"


def _cells() -> dict[tuple[str, str, str], str]:
    cells = {(d, k, m): WHOLE for d in DEPENDENCIES for k in KINDS for m in MOMENTS}
    for kind, before, later in (
        ("refused", "unavailable", "unavailable"),
        ("stalled", "timeout", "timeout"),
        ("wrong bytes", "unavailable", "unavailable"),
        ("throttled", "model_error", "model_error"),
        ("internal error", "model_error", "model_error"),
        ("process killed", "unavailable", "unavailable"),
    ):
        cells["Bedrock", kind, "before"] = cells["Bedrock", kind, "first token"] = before
        cells["Bedrock", kind, "middle"] = cells["Bedrock", kind, "end"] = f"text kept, {later}"
    # A connection lost before any text is replaced, and the model invoked again.
    cells["Bedrock", "reset", "middle"] = cells["Bedrock", "reset", "end"] = "text kept, unavailable"
    for kind in KINDS:
        if kind not in {"slow", "reset"}:  # a reset connection is replaced
            cells["OpenSearch", kind, "before"] = "whole, without knn"
            cells["DynamoDB", kind, "before"] = "whole, without customer"
    cells["Redis", "stalled", "before"] = "whole, without cache"
    return cells


EXPECTED = _cells()


def table(observed: dict[tuple[str, str, str], str]) -> str:
    """A Markdown table for each dependency."""
    parts = []
    for dependency in DEPENDENCIES:
        parts.append(f"## {dependency}\n")
        parts.append("| | " + " | ".join(MOMENTS) + " |")
        parts.append("|---|" + "---|" * len(MOMENTS))
        for kind in KINDS:
            parts.append(f"| {kind} | " + " | ".join(observed[dependency, kind, moment] for moment in MOMENTS) + " |")
        parts.append("")
    return "\n".join(parts)
