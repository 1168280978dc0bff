"""What is personal in a text, taken out: e-mail addresses, numbers, names."""

from __future__ import annotations

import re

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"(?:\b[A-Za-z]{1,4}-?)?\+?\d[\d\s().-]{3,}\d|(?:\b[A-Za-z]{1,4}-)?\d{5,}")
# How people give their name. What follows is a name up to the end of its capitalised words, or of its kanji and kana.
_INTRODUCED = re.compile(
    r"(?i:\b(?:my name is|i am called|call me|this is|name:|i'm|i am)\s+)((?:[A-Z][\w'’-]*\s?){1,3})"
    r"|(?:私の名前は|わたしの名前は|名前は)([^\s、。,.！!]{1,20}?)(?:です|と申します|といいます|と言います)"
    r"|([^\s、。,.！!は]{1,20}?)(?:と申します)"
)


def without_personal_data(text: str, name: str = "") -> str:
    """``text`` with e-mail addresses, order and telephone numbers, and names replaced: the customer's own ``name``, whole or in
    part, and whatever is introduced as one."""
    text = _EMAIL.sub("[email]", text)
    text = _NUMBER.sub("[number]", text)
    for part in sorted({name, *name.split()} - {""}, key=len, reverse=True):
        text = re.sub(
            rf"(?<!\w){re.escape(part)}(?!\w)" if part.isascii() else re.escape(part), "[name]", text, flags=re.I
        )

    def hidden(match: re.Match[str]) -> str:
        said = next(group for group in match.groups() if group)
        return match[0].replace(said, "[name]" + (" " if said.endswith(" ") else ""))

    return _INTRODUCED.sub(hidden, text)
