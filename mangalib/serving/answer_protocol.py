"""One answer as a pure object, without I/O and without a clock: what happened goes in, frames and decisions come out.

Times are in ms since the question came. The asyncio shell around it (``answer.py`` and ``outbox.py``) holds connections,
tasks and time-outs. An answer that was cut off is continued from its frames: no status, card or text is sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mangalib.aws import ClaudeRequest, ModelEvent, ModelReply
from mangalib.domain import ROUTES, STATUS_TEXTS, Catalogue, Intent, Manga, Release, Route
from mangalib.errors import BedrockError, TransportError
from mangalib.nlu import ParsedQuestion
from mangalib.protocol import (
    Card,
    CardDeck,
    Chunk,
    Error,
    Metadata,
    ProductCard,
    Query,
    Status,
    TitleCard,
    is_of,
    product_card,
    title_card,
)
from mangalib.protocol import Done as DoneFrame
from mangalib.serving.answer_record import AnswerRecord, Plan, StoredAnswer, StreamMetrics, StreamState
from mangalib.serving.frame_log import FrameLog
from mangalib.serving.text_batcher import TextBatcher
from mangalib.settings import AnswerSettings

SORRY = "Sorry, I ran into an issue. Please try again."
BUSY = "We are very busy right now. Please try again in a moment."


@dataclass(frozen=True)
class Invoke:
    """Ask the model for the whole answer."""

    model_id: str
    request: ClaudeRequest


@dataclass(frozen=True)
class Continue:
    """Ask the model to go on after ``text``, which the client has or will have."""

    model_id: str
    request: ClaudeRequest
    text: str


@dataclass(frozen=True)
class Retry:
    """Invoke the model again: ``at_once`` on another connection, or after a back-off."""

    at_once: bool


@dataclass(frozen=True)
class Stop:
    """The client is gone: stop the model and send no more frames."""


@dataclass(frozen=True)
class Done:
    """The last frame exists."""

    outcome: Literal["complete", "error"]


@dataclass(frozen=True)
class FramesToKeep:
    """What the replay store does not have yet: frames from ``first_seq`` on, and the record unless it is unchanged."""

    first_seq: int
    frames: list[bytes]
    record: AnswerRecord | None
    last: bool


class AnswerProtocol:
    """Owns the frames and their numbers, text and batching, cards, states, figures and the timeline of one answer."""

    def __init__(
        self,
        query: Query,
        *,
        request_id: str,
        session_id: str,
        release: Release,
        catalogue: Catalogue,
        settings: AnswerSettings,
        stored: StoredAnswer | None = None,
        after: int = -1,
    ) -> None:
        record = stored.record if stored else AnswerRecord(session_id, query, StreamState.INITIALIZING)
        self.query = query
        self.request_id = request_id
        self.session_id = session_id
        self.release = release
        self.metrics = StreamMetrics(
            tokens=record.tokens, input_tokens=record.input_tokens, first_token_ms=record.first_token_ms
        )
        self.timeline: dict[str, float] = {"received": 0.0}
        self.plan = record.plan
        self.intent: Intent | None = None
        self.model_id = record.plan.model_id if record.plan else ""
        self.source = "model"
        self.degraded: list[str] = []
        self.retrieved_titles: list[Manga] = []
        self.had_history = False
        self.stopped = False
        self._settings = settings
        self._catalogue = catalogue
        self._text = TextBatcher(
            batch_size=release.batch_size(settings), shown=stored.text if stored else "", buffered=not query.stream
        )
        self._reply = ModelReply()
        self._found_text = ""
        self._deck: CardDeck | None = None
        self._log = FrameLog(stored.frames if stored else [], after)
        self._kept_record: AnswerRecord | None = None
        self._statuses = {frame.state for frame in self._log.of(Status)}
        self._cards = {(frame.card.manga_id, type(frame.card)) for frame in self._log.of(Card)}
        self.finished = self._log.ended
        # Cut off between the end of the text and the last frame: only that frame is missing.
        self.text_complete = record.state is StreamState.COMPLETED
        missing_end = self.text_complete and not self.finished
        self.state = StreamState.STREAMING if missing_end else StreamState.INITIALIZING

    @property
    def text(self) -> str:
        """The whole text so far."""
        return self._text.text

    @property
    def has_text(self) -> bool:
        """Whether any text has arrived since this object was created: from then on nothing is retried."""
        return "first_token" in self.timeline

    @property
    def knows_customer(self) -> bool:
        """Whether the conversation is remembered for this customer."""
        assert self.intent is not None, "classified() comes first"
        return ROUTES[self.intent].knows_customer

    @property
    def route(self) -> Route:
        """The route of the question under this answer's release; known once it is classified."""
        assert self.intent is not None, "classified() comes first"
        return self.release.route(self.intent, ROUTES[self.intent])

    # What happened: before the text

    def classified(self, question: ParsedQuestion, now_ms: float) -> None:
        """The question is classified; an answer that is continued keeps the intent of its plan."""
        self.intent = Intent(self.plan.intent) if self.plan else question.intent
        self._deck = CardDeck(self._catalogue, self._settings, question.titles)
        if self.plan is None:
            self.timeline["classified"] = self.timeline["routed"] = now_ms
            self.model_id = self.release.model_id(self.intent, self.route, self._settings)
            if self.route.status_text:
                self._status("typing", self.route.status_text)
        about = self._deck.about(self.intent)
        if self.release.optimisations.status_messages:
            self._show(about)
        self._show(self._deck.read(self._text.taken))

    def looking_up(self) -> None:
        """No answer exists yet: titles and customer are looked up next."""
        if self.route.retrieval:
            self._status("checking", STATUS_TEXTS["checking"])
            self._status("retrieving", STATUS_TEXTS["retrieving"])

    def reached(self, stage: str, at_ms: float, *, failed: bool = False) -> None:
        """A stage ended then; the answer does without one that ``failed``."""
        self.timeline[stage] = at_ms
        if failed:
            self.degraded.append(stage)

    def looked_up(self, now_ms: float) -> None:
        """The look-ups are over."""
        self.reached("fan_out", now_ms)
        if self.route.retrieval:
            self._status("preparing", STATUS_TEXTS["preparing"])

    def retrieved(self, request: ClaudeRequest, titles: list[Manga], now_ms: float, *, had_history: bool) -> None:
        """The prompt is assembled from ``titles`` and the conversation so far."""
        assert self.intent is not None, "classified() comes first"
        self.retrieved_titles, self.had_history = titles, had_history
        self.plan = Plan(self.intent.value, self.model_id, request)
        self.timeline["prompt"] = now_ms

    def invocation(self) -> Invoke | Continue:
        """What to ask the model for."""
        assert self.plan is not None, "retrieved() comes first"
        if self.text.rstrip():
            return Continue(self.plan.model_id, self.plan.request, self.text)
        return Invoke(self.plan.model_id, self.plan.request)

    # What happened: text

    def found(self, piece: str, now_ms: float) -> None:
        """The next piece of an answer that existed before the question, or is also being generated for other customers.

        Raises ``TransportError`` when it is not the answer whose beginning the client has.
        """
        shown = self.text
        self._found_text += piece
        if not self._found_text.startswith(shown[: len(self._found_text)]):
            raise TransportError("the precomputed answer differs from the text that was sent already")
        self._receive(self._found_text[len(shown) :], now_ms)

    def served(self, source: str, intent: Intent, model_id: str, tokens: int, input_tokens: int) -> None:
        """The precomputed answer is complete; ``tokens`` and ``input_tokens`` are what was spent on it now."""
        self.source, self.intent, self.model_id = source, intent, model_id
        self.metrics.tokens += tokens
        self.metrics.input_tokens += input_tokens

    def invoked(self, now_ms: float) -> None:
        """A model was invoked: for the first time, for another attempt, or to continue a text that was cut off."""
        self._text.expect_repeated_white_space()
        if self.state is not StreamState.STREAMING:
            self._enter(StreamState.WAITING_FIRST_TOKEN)
        self.metrics.attempts += 1
        self.timeline["model_asked"] = now_ms
        self._reply = ModelReply()

    def model_events(self, events: Iterable[ModelEvent], now_ms: float) -> None:
        """The model's events, in the order in which they came."""
        tokens, input_tokens = self._reply.tokens, self._reply.input_tokens
        for text in self._reply.receive(events):
            self._receive(text, now_ms)
        self.metrics.tokens += self._reply.tokens - tokens
        self.metrics.input_tokens += self._reply.input_tokens - input_tokens

    def model_ended(self) -> None:
        """The model's stream has ended; raises ``TransportError`` when its last event is missing."""
        self._reply.require_complete()

    def model_failed(self, error: BedrockError | TransportError) -> Retry | None:
        """Whether to retry: never once there is text, and ``max_attempts`` at most."""
        retryable = not isinstance(error, BedrockError) or error.retryable
        if self.has_text or self.metrics.attempts >= self._settings.max_attempts or not retryable:
            return None
        return Retry(at_once=isinstance(error, TransportError) and not error.answered)

    # What happened: the end

    def completed(self, now_ms: float) -> list[str]:
        """The text is complete; returns the ids of the titles whose prices and stock the last cards need."""
        self._end(StreamState.COMPLETED, now_ms)
        assert self._deck is not None, "classified() comes first"
        self._show(self._deck.read("", last=True))
        return [item.manga_id for item in self._deck.titles]

    def priced(self, known: dict[str, Manga], now_ms: float) -> Done:
        """The last cards with prices as they are ``known``, else as the catalogue has them; then ``done``."""
        assert self._deck is not None, "classified() comes first"
        current = {item.manga_id: item for item in self.retrieved_titles} | known
        for item in self._deck.titles:
            self._card(product_card(current.get(item.manga_id, item), self._settings.shop_url))
        self.timeline["done"] = now_ms
        self._log.add(DoneFrame(self._metadata(now_ms), self.request_id, len(self._log)))
        self.finished = True
        return Done("complete")

    def failed(self, code: str, reason: str, now_ms: float, retry_after_ms: int | None = None) -> Done:
        """The answer ends here; the text so far is sent, then an ``error`` frame in words for the customer."""
        self.metrics.errors.append(reason)
        if self.state is not StreamState.COMPLETED:
            self._end(StreamState.ERROR, now_ms)
        message = BUSY if code == "busy" else SORRY
        self._log.add(Error(code, message, self.request_id, len(self._log), retry_after_ms))
        self.finished = True
        return Done("error")

    def client_left(self) -> Stop:
        """The client is gone: nothing is sent from now on."""
        self.stopped = True
        return Stop()

    def cancelled(self, now_ms: float) -> None:
        """Generation was stopped; the text so far becomes a frame, so that it is stored."""
        if self.state is not StreamState.COMPLETED:
            self._end(StreamState.CANCELLED, now_ms)
        self.finished = True

    # Outgoing frames

    def resumed(self, after: int) -> None:
        """The client is back, and has the frames up to ``after``."""
        self._log.resumed(after)

    def frames_to_send(self) -> list[bytes]:
        """Frames that may leave now, in order."""
        if self.stopped:
            return []
        if self._log.all_sent:
            self._take_text()
        return self._log.to_send()

    @property
    def all_sent(self) -> bool:
        """Whether the client has every frame so far."""
        return self._log.all_sent

    @property
    def next_to_send(self) -> int:
        """The number of the first frame that the client does not have."""
        return self._log.next_to_send

    def sent(self, seq: int, now_ms: float) -> None:
        """Frame ``seq`` was taken by the gateway."""
        frame = self._log.sent(seq)
        self.timeline.setdefault("first_frame", now_ms)
        if is_of(frame, Chunk):
            self.metrics.chunks_sent += 1
            self.metrics.bytes_sent += len(frame)

    @property
    def something_to_keep(self) -> bool:
        """Whether the replay store lacks a frame, or must learn that no more will follow."""
        return self.finished or self._log.kept < len(self._log)

    def frames_to_keep(self) -> FramesToKeep | None:
        """What is to be written to the replay store; ``None`` when it has everything so far and more may follow."""
        if not self.something_to_keep:
            return None
        new = self._log.to_keep()
        record = self._record()
        return FramesToKeep(self._log.kept, new, record if record != self._kept_record else None, last=self.finished)

    def kept(self, written: FramesToKeep) -> None:
        """The replay store has these."""
        self._log.was_kept(written.first_seq + len(written.frames))
        self._kept_record = written.record or self._kept_record

    def not_kept(self) -> None:
        """The replay store failed; frames do not wait for it until it works again."""
        self._log.was_not_kept()

    # Inside

    def _receive(self, text: str, now_ms: float) -> None:
        if not self._text.add(text):
            return
        if self.metrics.first_token_ms is None:
            self.metrics.first_token_ms = now_ms
        if self.state is not StreamState.STREAMING:
            self._enter(StreamState.STREAMING)
        self.timeline.setdefault("first_token", now_ms)

    def _take_text(self) -> None:
        text = self._text.take(everything=self.state.final)
        if text is not None:
            assert self._deck is not None, "classified() comes before any text"
            self._log.add(Chunk(text, self.request_id, len(self._log)))
            self._show(self._deck.read(text))

    def _end(self, state: StreamState, now_ms: float) -> None:
        self._enter(state)
        self.metrics.total_ms = now_ms
        self._take_text()

    def _enter(self, state: StreamState) -> None:
        if self.state.final or (self.state is StreamState.INITIALIZING and state is StreamState.COMPLETED):
            raise ValueError(f"answer: {self.state} is not followed by {state}")
        self.state = state

    def _status(self, state: str, message: str) -> None:
        if self.release.optimisations.status_messages and state not in self._statuses:
            self._statuses.add(state)
            self._log.add(Status(state, message, self.request_id, len(self._log), self.intent or ""))

    def _show(self, titles: Iterable[Manga]) -> None:
        for item in titles:
            self._card(title_card(item))

    def _card(self, card: TitleCard | ProductCard) -> None:
        if (card.manga_id, type(card)) not in self._cards:
            self._cards.add((card.manga_id, type(card)))
            self._log.add(Card(card, self.request_id, len(self._log)))

    def _metadata(self, now_ms: float) -> Metadata:
        return Metadata(
            first_token_ms=round(self.metrics.first_token_ms or now_ms, 1),
            total_ms=round(self.metrics.total_ms or now_ms, 1),
            tokens=self.metrics.tokens,
            input_tokens=self.metrics.input_tokens,
            model_id=self.model_id,
            intent=self.intent or "",
            source=self.source,
            timeline=self.timeline,
            attempts=max(1, self.metrics.attempts),
            release=self.release.number,
            degraded=self.degraded,
        )

    def _record(self) -> AnswerRecord:
        return AnswerRecord(
            session_id=self.session_id,
            query=self.query,
            state=self.state,
            tokens=self.metrics.tokens,
            input_tokens=self.metrics.input_tokens,
            first_token_ms=self.metrics.first_token_ms,
            plan=self.plan,
        )
