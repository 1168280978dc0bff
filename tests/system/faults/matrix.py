"""What the product promises for each dependency, each kind of failure, and each moment of an answer; and its table.

An ending is what a customer is left with:

    whole                    the whole answer, nothing of it twice
    whole, without X         the whole answer, made without what X would have told (named in ``done.metadata.degraded``)
    CODE                     one error frame with that code, before any text
    text kept, CODE          ... after text, which stays; nothing was tried again
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
    # A connection that is lost before any text is replaced and the model asked again.
    cells["Bedrock", "reset", "middle"] = cells["Bedrock", "reset", "end"] = "text kept, unavailable"
    for kind in KINDS:
        if kind not in {"slow", "reset"}:  # one that was reset is connected to again
            cells["OpenSearch", kind, "before"] = "whole, without knn"
            cells["DynamoDB", kind, "before"] = "whole, without customer"
    cells["Redis", "stalled", "before"] = "whole, without cache"
    return cells


EXPECTED = _cells()


def table(seen: dict[tuple[str, str, str], str]) -> str:
    """Markdown, a table for each dependency."""
    parts = []
    for dependency in DEPENDENCIES:
        parts.append(f"## {dependency}\n")
        parts.append("| | " + " | ".join(MOMENTS) + " |")
        parts.append("|---|" + "---|" * len(MOMENTS))
        for kind in KINDS:
            parts.append(f"| {kind} | " + " | ".join(seen[dependency, kind, moment] for moment in MOMENTS) + " |")
        parts.append("")
    return "\n".join(parts)
