from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mangalib.aws.bedrock import Delta, MessageStart, ModelEvent, Usage
from mangalib.serving.stream import StreamMachine, StreamState


def delta(text: str) -> ModelEvent:
    return ModelEvent("content_block_delta", delta=Delta(text))


def machine(**options: object) -> StreamMachine:
    made = StreamMachine(**{"batch_size": 3, **options})
    made.invoked()
    return made


def test_the_first_token_leaves_at_once_and_later_ones_in_batches() -> None:
    stream = machine()
    taken = []
    for text in "abcdefgh":
        stream.receive([delta(text)], 1.0)
        taken.append(stream.take())
    assert taken == ["a", None, None, "bcd", None, None, "efg", None]
    stream.complete(2.0)
    assert stream.take() == "h", "the tail leaves when the answer ends"


def test_what_came_while_a_send_was_under_way_leaves_together() -> None:
    stream = machine()
    stream.receive([delta("a")], 1.0)
    assert stream.take() == "a"
    stream.receive([delta(text) for text in "bcdefg"], 1.0)
    assert stream.take() == "bcdefg"


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_the_tail_is_not_lost_when_it_ends_badly(end: str) -> None:
    stream = machine()
    stream.receive([delta("a"), delta("b")], 1.0)
    assert stream.take() == "ab"
    stream.receive([delta("c")], 1.0)
    stream.fail("broken", 2.0) if end == "fail" else stream.cancel(2.0)
    assert stream.take() == "c"
    assert stream.state.final


def test_tokens_are_the_models_usage_not_the_deltas() -> None:
    stream = machine()
    stream.receive(
        [
            ModelEvent("message_start", message=MessageStart(Usage(12, 1))),
            ModelEvent("ping"),
            ModelEvent("something_new"),
            delta("a b c"),
            ModelEvent("message_delta", delta=Delta(stop_reason="end_turn"), usage=Usage(output_tokens=7)),
            ModelEvent("message_stop"),
        ],
        5.0,
    )
    assert (stream.metrics.tokens, stream.metrics.input_tokens, stream.metrics.deltas) == (7, 12, 1)
    assert stream.metrics.first_token_ms == 5.0
    assert (stream.stop_reason, stream.finished_by_model) == ("end_turn", True)


def test_an_answer_whose_maker_is_gone_goes_on_from_its_text() -> None:
    stream = machine()
    stream.receive_text("One Piece ", 1.0)
    stream.invoked()
    assert stream.state is StreamState.STREAMING
    stream.receive([delta(" is"), delta(" long")], 2.0)
    assert stream.text == "One Piece is long"
    assert stream.metrics.first_token_ms == 1.0


def test_buffered_holds_all_back_until_the_end() -> None:
    stream = machine(buffered=True)
    stream.receive([delta(text) for text in "abcdef"], 1.0)
    assert stream.take() is None
    stream.complete(2.0)
    assert stream.take() == "abcdef"


def test_a_continuation_does_not_repeat_the_white_space_it_could_not_be_given() -> None:
    stream = machine(shown="One Piece \n")
    stream.receive([delta(" "), delta("\n is"), delta(" long")], 1.0)
    assert stream.text == "One Piece \n is long"


def test_nothing_follows_an_end() -> None:
    stream = machine()
    stream.complete(1.0)
    for late in (stream.complete, stream.cancel):
        with pytest.raises(ValueError, match="completed"):
            late(2.0)
    assert stream.state is StreamState.COMPLETED


STEPS = st.lists(st.one_of(st.text(min_size=1, max_size=5), st.just(None)), max_size=60)


@given(STEPS, st.integers(1, 6), st.sampled_from(["complete", "cancel", "fail"]))
def test_whatever_the_order_all_text_leaves_once_in_order(steps: list[str | None], batch_size: int, end: str) -> None:
    """``None`` is a moment at which the line is free; between two of them no more than the batch may be held back."""
    stream, left, waiting = machine(batch_size=batch_size), "", 0
    for step in steps:
        if step is not None:
            stream.receive([delta(step)], 1.0)
            waiting += 1
            continue
        due = waiting >= (batch_size if left else 1)
        taken = stream.take()
        assert (taken is not None) == due, "it leaves exactly when it is the first, or the batch is full"
        if taken is not None:
            left, waiting = left + taken, 0
    stream.fail("x", 2.0) if end == "fail" else getattr(stream, end)(2.0)
    left += stream.take() or ""
    assert left == "".join(step for step in steps if step is not None) == stream.taken


class StreamLife(RuleBasedStateMachine):
    """Any order of what a model, a line and a customer may do, a maker that is lost in the middle included."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = machine(batch_size=3)
        self.came, self.left, self.waiting, self.used = "", "", 0, 0
        self.first_ms: float | None = None
        self.now_ms = 0.0

    @precondition(lambda self: not self.stream.state.final)
    @rule(text=st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=5))
    def text_comes(self, text: str) -> None:
        self.now_ms += 1
        self.first_ms = self.first_ms or self.now_ms
        self.stream.receive([delta(text)], self.now_ms)
        self.came, self.waiting = self.came + text, self.waiting + 1

    @precondition(lambda self: not self.stream.state.final)
    @rule(tokens=st.integers(0, 50))
    def usage_comes(self, tokens: int) -> None:
        usage = Usage(output_tokens=tokens)
        self.stream.receive([ModelEvent("ping"), ModelEvent("message_delta", usage=usage)], self.now_ms)
        self.used += tokens

    @precondition(lambda self: not self.stream.state.final)
    @rule()
    def the_maker_is_replaced(self) -> None:
        self.stream.invoked()

    @rule()
    def the_line_is_free(self) -> None:
        needed = 1 if self.stream.state.final or not self.left else 3
        taken = self.stream.take()
        assert (taken is not None) == (self.waiting >= needed)
        if taken is not None:
            self.left, self.waiting = self.left + taken, 0

    @precondition(lambda self: self.stream.state is StreamState.STREAMING)
    @rule(how=st.sampled_from(["complete", "cancel", "fail"]))
    def it_ends(self, how: str) -> None:
        self.stream.fail("x", self.now_ms) if how == "fail" else getattr(self.stream, how)(self.now_ms)

    @invariant()
    def nothing_is_lost_or_told_twice(self) -> None:
        assert self.stream.text == self.came
        assert self.stream.taken == self.left == self.came[: len(self.left)]
        assert self.stream.metrics.tokens == self.used
        assert self.stream.metrics.first_token_ms == self.first_ms
        assert (self.stream.metrics.total_ms is not None) == self.stream.state.final


TestStreamLife = StreamLife.TestCase
TestStreamLife.settings = settings(max_examples=100, deadline=None)
