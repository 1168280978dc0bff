"""Redacts personal data: e-mail addresses, order and telephone numbers, names."""

from __future__ import annotations

import re

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"(?:\b[A-Za-z]{1,4}-?)?\+?\d[\d\s().-]{3,}\d|(?:\b[A-Za-z]{1,4}-)?\d{5,}")
# Phrases that introduce a name; the name ends with its capitalised words, or where the Japanese phrase goes on.
_INTRODUCED = re.compile(
    r"(?i:\b(?:my name is|i am called|call me|this is|name:|i'm|i am)\s+)((?:[A-Z][\w'’-]*\s?){1,3})"
    r"|(?:私の名前は|わたしの名前は|名前は)([^\s、。,.！!]{1,20}?)(?:です|と申します|といいます|と言います)"
    r"|([^\s、。,.！!は]{1,20}?)(?:と申します)"
)


def without_personal_data(text: str, name: str = "") -> str:
    """``text`` with e-mail addresses, order and telephone numbers, and names replaced by placeholders.

    Names are the customer's own ``name``, whole or in part, and whatever a phrase like "my name is" introduces.
    """
    text = _EMAIL.sub("[email]", text)
    text = _NUMBER.sub("[number]", text)
    for part in sorted({name, *name.split()} - {""}, key=len, reverse=True):
        text = re.sub(
            rf"(?<!\w){re.escape(part)}(?!\w)" if part.isascii() else re.escape(part), "[name]", text, flags=re.I
        )

    def redact_name(match: re.Match[str]) -> str:
        introduced = next(group for group in match.groups() if group)
        return match[0].replace(introduced, "[name]" + (" " if introduced.endswith(" ") else ""))

    return _INTRODUCED.sub(redact_name, text)
