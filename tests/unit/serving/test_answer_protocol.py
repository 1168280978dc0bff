"""The rules of one answer as a pure object: no sockets, no clock, no waiting."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mangalib.aws import ClaudeRequest, Turn
from mangalib.domain import Catalogue, Intent, Release
from mangalib.domain.releases import Optimisations
from mangalib.errors import BedrockError, TransportError
from mangalib.nlu import ParsedQuestion
from mangalib.nlu.meaning import MeaningReader
from mangalib.protocol import Query
from mangalib.serving.answer_protocol import (
    BUSY,
    SORRY,
    AnswerProtocol,
    Continue,
    Done,
    FramesToKeep,
    Invoke,
    Retry,
    Stop,
)
from mangalib.serving.answer_record import AnswerRecord, StoredAnswer, StreamState
from mangalib.settings import load_settings
from tests.unit.serving.fake_models import delta, whole

SETTINGS = load_settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
READER = MeaningReader(CATALOGUE)
REQUEST = ClaudeRequest(100, [Turn("user", "Tell me")])
OUTAGE = BedrockError("ServiceUnavailableException", "down", status=503)
REFUSAL = BedrockError("ValidationException", "wrong", status=400)
RESET = TransportError("reset")
CUT = TransportError("cut", answered=True)


def question(text: str, intent: Intent = Intent.FAQ) -> ParsedQuestion:
    marked = READER.mark_titles(text)
    return ParsedQuestion(text, READER.read_marked(marked), marked.titles, np.zeros(256, np.float32), intent, 1.0, None)


def protocol(text: str = "May I return a book?", **options: Any) -> AnswerProtocol:
    stream = options.pop("stream", True)
    defaults: dict[str, Any] = {"release": Release(), "catalogue": CATALOGUE, "settings": SETTINGS}
    return AnswerProtocol(Query(text, stream=stream), request_id="r", session_id="s", **{**defaults, **options})


def asked(intent: Intent = Intent.FAQ, text: str = "May I return a book?", **options: Any) -> AnswerProtocol:
    """An answer whose model was asked."""
    answer = protocol(text, **options)
    answer.classified(question(text, intent), 1.0)
    answer.looking_up()
    answer.looked_up(2.0)
    answer.retrieved(REQUEST, [], 3.0, had_history=False)
    answer.invoked(4.0)
    return answer


def send(answer: AnswerProtocol, now_ms: float = 9.0) -> list[dict[str, Any]]:
    """All frames that may leave now, taken by the client."""
    sent = []
    while frames := answer.frames_to_send():
        for seq, frame in enumerate(frames, answer.next_to_send):
            sent.append(msgspec.json.decode(frame))
            assert sent[-1]["seq"] == seq
            answer.sent(seq, now_ms)
    return sent


class Store:
    """A replay store that keeps at once."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.record: AnswerRecord | None = None

    def keep(self, answer: AnswerProtocol) -> FramesToKeep | None:
        new = answer.frames_to_keep()
        if new is not None:
            self.frames[new.first_seq :] = new.frames
            self.record = new.record or self.record
            answer.kept(new)
        return new

    def send(self, answer: AnswerProtocol) -> list[dict[str, Any]]:
        """All frames, stored and sent."""
        sent = send(answer)
        while (new := self.keep(answer)) is not None and new.frames:
            sent += send(answer)
        return sent

    def load(self) -> StoredAnswer:
        assert self.record is not None
        return StoredAnswer(self.record, list(self.frames))


def texts(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["text"] for frame in frames if frame["type"] == "chunk"]


def states(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["state"] for frame in frames if frame["type"] == "status"]


# Statuses and cards


def test_the_statuses_of_the_retrieval_path_come_in_their_order() -> None:
    answer = asked(Intent.RECOMMENDATION)
    assert states(send(answer)) == ["typing", "checking", "retrieving", "preparing"]


def test_the_simple_path_has_one_status_and_a_greeting_none() -> None:
    assert states(send(asked(Intent.FAQ))) == ["typing"]
    assert states(send(asked(Intent.GREETING))) == []


def test_a_release_without_status_messages_sends_neither_statuses_nor_early_cards() -> None:
    quiet = Release(optimisations=Optimisations(status_messages=False))
    answer = asked(Intent.PRODUCT_SEARCH, "Tell me about One Piece", release=quiet)
    assert send(answer) == []


def test_a_title_has_its_card_at_once_and_its_price_at_the_end() -> None:
    answer = asked(Intent.PRODUCT_SEARCH, "Tell me about One Piece")
    early = [frame["card"]["kind"] for frame in send(answer) if frame["type"] == "card"]
    assert early == ["title"]
    answer.model_events(whole("One Piece is long."), 5.0)
    answer.model_ended()
    wanted = answer.completed(6.0)
    title = CATALOGUE.by_id[wanted[0]]
    cheaper = msgspec.structs.replace(title, price_usd=1.0)
    answer.priced({title.manga_id: cheaper}, 7.0)
    last = [frame["card"] for frame in Store().send(answer) if frame["type"] == "card"]
    assert [(card["kind"], card["price_usd"]) for card in last] == [("product", 1.0)]


def test_prices_that_are_not_known_now_are_those_that_were_retrieved() -> None:
    answer = protocol("Tell me about One Piece")
    answer.classified(question("Tell me about One Piece", Intent.PRODUCT_SEARCH), 1.0)
    found = msgspec.structs.replace(CATALOGUE.mentioned("One Piece")[0], price_usd=2.0)
    answer.retrieved(REQUEST, [found], 3.0, had_history=False)
    answer.invoked(4.0)
    answer.model_events(whole("One Piece."), 5.0)
    answer.completed(6.0)
    answer.priced({}, 7.0)
    cards = [frame["card"] for frame in Store().send(answer) if frame["type"] == "card"]
    assert cards[-1]["price_usd"] == 2.0


# First token and batches


def test_the_first_token_leaves_at_once_and_later_ones_in_batches() -> None:
    answer = asked()
    send(answer)
    left = []
    for text in "abcdefgh":
        answer.model_events([delta(text)], 5.0)
        left.append("".join(texts(Store().send(answer))))
    assert left == ["a", "", "", "bcd", "", "", "efg", ""]
    answer.model_events(whole(), 6.0)
    answer.completed(7.0)
    assert texts(Store().send(answer)) == ["h"], "the tail leaves when the text is whole"


def test_text_that_comes_while_a_frame_is_on_its_way_leaves_in_one_chunk() -> None:
    answer = asked()
    send(answer)
    answer.model_events([delta("a")], 5.0)
    (frame,) = answer.frames_to_send()
    answer.model_events([delta(text) for text in "bcdefg"], 6.0)
    assert answer.frames_to_send() == [frame], "nothing is added while one is on its way"
    answer.sent(answer.next_to_send, 7.0)
    assert texts(Store().send(answer)) == ["bcdefg"]


def test_a_release_without_batching_sends_each_delta() -> None:
    answer = asked(release=Release(optimisations=Optimisations(chunk_batching=False)))
    send(answer)
    left = []
    for text in "abc":
        answer.model_events([delta(text)], 5.0)
        left += texts(Store().send(answer))
    assert left == ["a", "b", "c"]


def test_without_streaming_all_text_comes_in_one_chunk_at_the_end() -> None:
    answer = asked(stream=False)
    answer.model_events(whole(*"abcdef"), 5.0)
    assert texts(Store().send(answer)) == []
    answer.completed(6.0)
    assert texts(Store().send(answer)) == ["abcdef"]


def test_a_frame_waits_for_the_replay_store_only_after_the_first_text() -> None:
    answer = asked()
    assert states(send(answer)) == ["typing"], "statuses do not wait"
    answer.model_events([delta("a")], 5.0)
    assert texts(send(answer)) == ["a"], "nor does the first text"
    answer.model_events([delta("b"), delta("c"), delta("d")], 5.0)
    assert send(answer) == []
    kept = answer.frames_to_keep()
    assert kept is not None
    answer.kept(kept)
    assert texts(send(answer)) == ["bcd"]


def test_no_frame_waits_for_a_replay_store_that_fails() -> None:
    answer = asked()
    answer.model_events([delta("a")], 5.0)
    send(answer)
    answer.model_events([delta("b"), delta("c"), delta("d")], 5.0)
    assert send(answer) == []
    answer.not_kept()
    assert texts(send(answer)) == ["bcd"]
    again = answer.frames_to_keep()
    assert again is not None
    assert [msgspec.json.decode(frame)["seq"] for frame in again.frames] == [0, 1, 2], "all of it is tried again"


# Figures


def test_tokens_are_the_models_usage_not_the_deltas() -> None:
    answer = asked()
    answer.model_events(whole("a b c"), 5.0)
    assert (answer.metrics.tokens, answer.metrics.input_tokens) == (7, 12)
    assert answer.metrics.first_token_ms == 5.0


def test_done_carries_the_answers_metadata() -> None:
    answer = asked()
    answer.reached("customer", 2.5, failed=True)
    answer.model_events(whole("Yes."), 5.0)
    answer.model_ended()
    answer.completed(8.0)
    assert answer.priced({}, 8.5) == Done("complete")
    done = Store().send(answer)[-1]
    assert done["type"] == "done"
    metadata = done["metadata"]
    assert metadata["timeline"] == {
        "received": 0.0,
        "classified": 1.0,
        "routed": 1.0,
        "fan_out": 2.0,
        "prompt": 3.0,
        "model_asked": 4.0,
        "customer": 2.5,
        "first_token": 5.0,
        "done": 8.5,
    }
    expected = {"first_token_ms": 5.0, "total_ms": 8.0, "tokens": 7, "input_tokens": 12, "attempts": 1, "release": 0}
    assert {name: metadata[name] for name in expected} == expected
    assert (metadata["intent"], metadata["source"], metadata["degraded"]) == ("faq", "model", ["customer"])
    assert metadata["model_id"] == SETTINGS.haiku_model_id
    assert answer.metrics.chunks_sent == 1
    assert answer.metrics.bytes_sent > 0


# Failures


@pytest.mark.parametrize(
    ("error", "decision"),
    [(OUTAGE, Retry(at_once=False)), (RESET, Retry(at_once=True)), (CUT, Retry(at_once=False)), (REFUSAL, None)],
)
def test_a_model_error_before_any_text_is_retried_where_that_may_help(
    error: BedrockError | TransportError, decision: Retry | None
) -> None:
    assert asked().model_failed(error) == decision


def test_nothing_is_retried_once_there_is_text_or_when_all_attempts_are_used() -> None:
    answer = asked()
    answer.invoked(5.0)
    assert answer.metrics.attempts == SETTINGS.max_attempts
    assert answer.model_failed(RESET) is None
    shown = asked()
    shown.model_events([delta("a")], 5.0)
    assert shown.model_failed(RESET) is None


def test_a_stream_that_ends_before_its_last_event_was_cut() -> None:
    answer = asked()
    answer.model_events([delta("a")], 5.0)
    with pytest.raises(TransportError, match="before its last event"):
        answer.model_ended()


@pytest.mark.parametrize(("code", "words"), [("busy", BUSY), ("timeout", SORRY)])
def test_an_error_in_our_own_words_follows_the_text_so_far(code: str, words: str) -> None:
    answer = asked()
    answer.model_events([delta("a"), delta("b")], 5.0)
    send(answer)
    answer.model_events([delta("c")], 6.0)
    assert answer.failed(code, "the reason", 7.0, 250) == Done("error")
    last = Store().send(answer)
    assert texts(last) == ["c"], "the tail is not lost"
    assert {name: last[-1][name] for name in ("code", "message", "retry_after_ms")} == {
        "code": code,
        "message": words,
        "retry_after_ms": 250,
    }
    assert answer.state is StreamState.ERROR
    assert answer.metrics.errors == ["the reason"]


def test_an_error_after_the_complete_text_still_ends_the_answer() -> None:
    answer = asked()
    answer.model_events(whole("a"), 5.0)
    answer.completed(6.0)
    answer.failed("internal", "KeyError", 7.0)
    assert Store().send(answer)[-1]["type"] == "error"
    assert answer.finished


def test_a_final_state_is_final() -> None:
    answer = asked()
    answer.failed("timeout", "late", 5.0)
    with pytest.raises(ValueError, match="error is not followed by cancelled"):
        answer.cancelled(6.0)
    with pytest.raises(ValueError, match="initializing is not followed by completed"):
        protocol().completed(1.0)


# The client leaves and comes back


def test_nothing_is_sent_when_the_client_has_left_and_all_text_is_kept() -> None:
    answer = asked()
    answer.model_events([delta("a"), delta("b")], 5.0)
    send(answer)
    answer.model_events([delta("c")], 6.0)
    assert answer.client_left() == Stop()
    answer.cancelled(7.0)
    assert answer.frames_to_send() == []
    store = Store()
    store.keep(answer)
    assert store.load().text == "abc"
    assert answer.state is StreamState.CANCELLED


def test_a_resuming_client_gets_the_frames_after_its_last_one() -> None:
    answer = asked()
    answer.model_events([delta("a")], 5.0)
    first = send(answer)
    answer.resumed(0)
    assert send(answer) == first[1:]
    answer.resumed(-1)
    assert send(answer) == first
    answer.resumed(99)
    assert send(answer) == []


def test_an_answer_is_continued_from_its_frames_and_nothing_comes_twice() -> None:
    cut = asked(Intent.PRODUCT_SEARCH, "Tell me about One Piece")
    cut.model_events([delta("One "), delta("Piece "), delta("is ")], 5.0)
    store = Store()
    before = store.send(cut)
    cut.client_left()
    cut.cancelled(6.0)
    store.keep(cut)
    kept = store.load()
    again = protocol("Tell me about One Piece", stored=kept, after=before[-1]["seq"])
    again.classified(question("Tell me about One Piece", Intent.OTHER), 1.0)
    assert again.intent is Intent.PRODUCT_SEARCH, "the plan says what the question was taken for"
    decision = again.invocation()
    assert decision == Continue(SETTINGS.sonnet_model_id, REQUEST, kept.text)
    again.invoked(2.0)
    again.model_events(whole(" ", " long"), 3.0)
    again.model_ended()
    again.completed(4.0)
    again.priced({}, 5.0)
    after = Store().send(again)
    assert "".join(texts(before + after)) == "One Piece is  long"
    assert states(after) == []
    assert [frame["seq"] for frame in before + after] == list(range(len(before + after)))


def test_an_answer_whose_last_frame_is_kept_is_only_sent_again() -> None:
    whole_one = asked()
    whole_one.model_events(whole("a"), 5.0)
    whole_one.completed(6.0)
    whole_one.priced({}, 7.0)
    store = Store()
    store.send(whole_one)
    again = protocol(stored=store.load(), after=0)
    assert again.finished
    assert [frame["type"] for frame in send(again)] == ["chunk", "done"]
    assert again.all_sent


def test_without_any_text_the_model_is_invoked_for_the_complete_answer() -> None:
    assert asked().invocation() == Invoke(SETTINGS.haiku_model_id, REQUEST)


def test_an_answer_cut_off_after_its_complete_text_gets_its_last_frame_without_a_model() -> None:
    cut, store = asked(), Store()
    cut.model_events(whole("Yes."), 5.0)
    cut.completed(6.0)
    cut.client_left()
    cut.cancelled(6.5)
    store.keep(cut)
    again = protocol(stored=store.load())
    assert again.text_complete
    assert not again.finished
    again.classified(question("May I return a book?"), 1.0)
    again.completed(2.0)
    again.priced({}, 3.0)
    frames = Store().send(again)
    assert ("".join(texts(frames)), frames[-1]["type"]) == ("Yes.", "done")


# Answers that exist already


def test_a_precomputed_answer_is_passed_on_with_its_source_and_its_cost() -> None:
    answer = protocol()
    answer.classified(question("May I return a book?"), 1.0)
    answer.found("Yes, ", 2.0)
    answer.found("of course.", 3.0)
    answer.served("semantic_cache", Intent.FAQ, "", 0, 0)
    answer.completed(4.0)
    answer.priced({}, 5.0)
    frames = Store().send(answer)
    assert "".join(texts(frames)) == "Yes, of course."
    assert frames[-1]["metadata"]["source"] == "semantic_cache"
    assert frames[-1]["metadata"]["tokens"] == 0
    assert answer.knows_customer is False


def test_a_precomputed_answer_that_differs_from_what_was_sent_is_refused() -> None:
    cut = asked()
    cut.model_events([delta("Yes. ")], 5.0)
    cut.cancelled(6.0)
    store = Store()
    store.keep(cut)
    kept = store.load()
    again = protocol(stored=StoredAnswer(msgspec.structs.replace(kept.record, plan=None), kept.frames))
    again.classified(question("May I return a book?"), 1.0)
    again.found("Yes", 2.0)
    with pytest.raises(TransportError, match="differs"):
        again.found(", but", 3.0)
    assert again.text == "Yes. "


def test_the_model_continues_a_precomputed_answer_that_broke_off() -> None:
    answer = protocol()
    answer.classified(question("May I return a book?"), 1.0)
    answer.found("Yes, ", 2.0)
    answer.retrieved(REQUEST, [], 3.0, had_history=True)
    assert answer.invocation() == Continue(SETTINGS.haiku_model_id, REQUEST, "Yes, ")
    answer.invoked(4.0)
    answer.model_events(whole(" ", "within 30 days"), 5.0)
    assert answer.text == "Yes, within 30 days"
    assert answer.metrics.first_token_ms == 2.0
    assert answer.had_history


def test_reading_the_route_before_classification_is_an_error() -> None:
    for step in ("knows_customer", "route"):
        with pytest.raises(AssertionError, match="classified"):
            getattr(protocol(), step)


def test_the_record_is_kept_again_only_when_it_changed() -> None:
    answer, store = asked(), Store()
    store.send(answer)
    assert store.record == AnswerRecord("s", answer.query, StreamState.WAITING_FIRST_TOKEN, plan=answer.plan)
    answer.model_events([delta("a")], 5.0)
    store.send(answer)
    assert store.record.state is StreamState.STREAMING
    assert answer.frames_to_keep() is None
    answer.model_events([delta(text) for text in "bcd"], 6.0)
    send(answer)
    new = store.keep(answer)
    assert new is not None
    assert new.record is None


class AnswerLife(RuleBasedStateMachine):
    """Any order of what a model, a connection, a replay store and a client may do, orchestrators that take over included."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asked()
        self.model_said = ""
        self.client: list[dict[str, Any]] = []
        self.frames_kept: list[bytes] = []
        self.record: AnswerRecord | None = None

    @precondition(lambda self: not self.answer.finished)
    @rule(text=st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=5))
    def text_comes(self, text: str) -> None:
        self.answer.model_events([delta(text)], 5.0)
        self.model_said += text

    @rule()
    def the_line_is_free(self) -> None:
        for seq, frame in enumerate(self.answer.frames_to_send()[:1], self.answer.next_to_send):
            self.client.append(msgspec.json.decode(frame))
            self.answer.sent(seq, 6.0)

    @rule(works=st.booleans())
    def the_store_writes(self, works: bool) -> None:
        kept = self.answer.frames_to_keep()
        if kept is None:
            return
        if not works:
            self.answer.not_kept()
            return
        self.frames_kept[kept.first_seq :] = kept.frames
        self.record = kept.record or self.record
        self.answer.kept(kept)

    @rule(lost=st.integers(0, 3))
    def the_client_comes_back(self, lost: int) -> None:
        """The last ``lost`` frames never reached it."""
        if lost:
            del self.client[-lost:]
        self.answer.resumed(len(self.client) - 1)

    @precondition(lambda self: self.record is not None and len(self.client) <= len(self.frames_kept))
    @rule()
    def another_orchestrator_takes_over(self) -> None:
        assert self.record is not None
        kept = StoredAnswer(self.record, list(self.frames_kept))
        self.answer = protocol(stored=kept, after=len(self.client) - 1)
        self.answer.classified(question("May I return a book?"), 1.0)
        if not self.answer.finished:
            self.answer.invocation()
            self.answer.invoked(2.0)
            self.model_said = kept.text

    @precondition(lambda self: self.answer.state is StreamState.STREAMING and not self.answer.finished)
    @rule(how=st.sampled_from(["completed", "failed", "cancelled"]))
    def it_ends(self, how: str) -> None:
        if how == "completed":
            self.answer.completed(8.0)
            self.answer.priced({}, 9.0)
        elif how == "failed":
            self.answer.failed("timeout", "late", 8.0)
        else:
            self.answer.cancelled(8.0)

    @invariant()
    def nothing_is_lost_and_nothing_comes_twice(self) -> None:
        assert [frame["seq"] for frame in self.client] == list(range(len(self.client)))
        shown = "".join(texts(self.client))
        assert self.model_said.startswith(shown) or self.answer.text.startswith(shown)
        ends = [frame for frame in self.client if frame["type"] in {"done", "error"}]
        assert ends == self.client[-1:] if ends else True


TestAnswerLife = AnswerLife.TestCase
TestAnswerLife.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
