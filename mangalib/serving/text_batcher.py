"""An answer's text, collected and cut into chunks. No I/O, no clock."""

from __future__ import annotations


class TextBatcher:
    """The first text leaves at once. Later text waits while a send is under way, or until ``batch_size`` deltas have come.

    ``shown`` is text that the client already has, so that no later text counts as the first token. ``buffered`` holds all
    text back until the end, to show what that costs.
    """

    def __init__(self, *, batch_size: int, shown: str = "", buffered: bool = False) -> None:
        self.taken = shown
        self._batch_size = batch_size
        self._buffered = buffered
        self._pending: list[str] = []
        self._repeated = ""

    @property
    def text(self) -> str:
        """The whole text so far; ``taken`` is the part that was sent."""
        return self.taken + "".join(self._pending)

    def expect_repeated_white_space(self) -> None:
        """The model continues the text from here. It may repeat the white space that its prompt was not allowed to end with."""
        self._repeated = self.text[len(self.text.rstrip()) :]

    def add(self, text: str) -> bool:
        """Take one delta; false when nothing of it is new."""
        while self._repeated and text and text[0] == self._repeated[0]:
            text, self._repeated = text[1:], self._repeated[1:]
        if not text:
            return False
        self._repeated = ""
        self._pending.append(text)
        return True

    def take(self, *, everything: bool) -> str | None:
        """The text to send now that nothing is being sent; ``None`` when it is better to wait, or there is no text."""
        if not self._pending:
            return None
        batch_size = self._batch_size if self.taken else 1
        if not everything and (self._buffered or len(self._pending) < batch_size):
            return None
        text = "".join(self._pending)
        self._pending.clear()
        self.taken += text
        return text
