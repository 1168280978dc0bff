// MangaAssist's chat: one element, for a page and for a notebook, without dependencies.
//
//   const chat = new Chat(host, { lang: "en", onTimeline: rows => ... });
//   chat.connect({ url, token, figures });   // again with another token when the first one has expired
//
// In the order data flows: the connection (frames in, resumed when it breaks), an answer on the screen, the stopwatch that
// says what was painted when, and Chat, which puts them together. `figures` are the product's settings: none lives here.
// Whatever comes from a customer, a model or the catalogue becomes text nodes; this file never parses HTML.

const WORDS = {
  en: {
    chat: "Chat with MangaAssist", conversation: "Conversation", question: "Your question", you: "You", assistant: "MangaAssist",
    hint: "Ask about a manga, an order, or what to read next", send: "Send", clear: "New conversation", timeline: "Timeline",
    thinking: "Thinking...", more: "Tell me more", moreAbout: (title) => `Tell me about ${title}`, again: "Try again",
    buy: (usd) => `Buy · $${usd}`, soldOut: "Out of stock", pending: "Price follows", volumes: (count) => `${count} volumes`,
    by: (author) => `by ${author}`, budget: (ms) => `budget ${ms} ms`, slow: "The answer takes too long. What came is kept.",
    failed: "Sorry, I ran into an issue. Please try again.",
    lost: "The connection was lost and could not be made again. What came is kept.",
    expired: "Your sign-in has expired. Sign in again, then try again.",
    states: { waiting: "Waiting for an address", connecting: "Connecting", open: "Connected", asleep: "Connects when you ask",
      reconnecting: "Reconnecting", lost: "No connection", expired: "Sign-in expired" },
    intents: { recommendation: "Recommendation", product_search: "Product", order_status: "Order", comparison: "Comparison",
      complaint: "Complaint", faq: "Question", greeting: "Greeting", other: "Other", default: "Question" },
    sources: { model: "model", semantic_cache: "from the cache", precomputed: "made ahead", trending: "trending" },
    statuses: {},
  },
  ja: {
    chat: "MangaAssistとのチャット", conversation: "会話", question: "ご質問", you: "あなた", assistant: "MangaAssist",
    hint: "漫画、ご注文、次に読む作品について", send: "送信", clear: "新しい会話", timeline: "タイムライン",
    thinking: "考えています…", more: "もっと詳しく", moreAbout: (title) => `${title}について教えて`, again: "もう一度",
    buy: (usd) => `購入 · $${usd}`, soldOut: "在庫切れ", pending: "価格を確認中", volumes: (count) => `全${count}巻`,
    by: (author) => `${author} 著`, budget: (ms) => `目標 ${ms} ms`, slow: "回答に時間がかかりすぎています。ここまでの内容は残ります。",
    failed: "申し訳ございません。問題が発生しました。もう一度お試しください。",
    lost: "接続が切れ、再接続できませんでした。ここまでの内容は残ります。",
    expired: "サインインの有効期限が切れました。もう一度サインインしてからお試しください。",
    states: { waiting: "接続先を待っています", connecting: "接続中", open: "接続済み", asleep: "ご質問時に接続します",
      reconnecting: "再接続中", lost: "接続がありません", expired: "サインインの期限切れ" },
    intents: { recommendation: "おすすめ", product_search: "商品", order_status: "ご注文", comparison: "比較",
      complaint: "お困りごと", faq: "ご質問", greeting: "ごあいさつ", other: "その他", default: "ご質問" },
    sources: { model: "モデル", semantic_cache: "キャッシュ", precomputed: "事前生成", trending: "人気の回答" },
    statuses: { recommendation: "おすすめの漫画を探しています…", product_search: "漫画カタログを検索しています…",
      order_status: "ご注文の状況を確認しています…", comparison: "作品を比べています…",
      complaint: "ご不便をおかけします。確認しています…", faq: "お答えを探しています…", other: "ご依頼に対応しています…",
      default: "ご依頼に対応しています…", checking: "確認しています…", retrieving: "漫画を探しています…",
      preparing: "回答を準備しています…" },
  },
};
const ENDS = ["done", "error", "lost"];
const JAPANESE = /[\u3040-\u30ff\u4e00-\u9fff]/;
const languageOf = (text) => (JAPANESE.test(text) ? "ja" : "en");

// The connection

class Connection {
  // `onFrame(frame)` gets each frame of an answer once, and {type: "lost", request_id, reason} when it can never be whole.
  constructor({ onFrame, onState }) {
    this.onFrame = onFrame;
    this.onState = onState;
    this.pending = new Map();
    this.socket = null;
    this.attempts = 0;
    this.retry = null;
  }

  connect({ url, token, figures }) {
    Object.assign(this, { url, token, figures });
    if (!this.socket) this.open();
  }

  ask(query) {
    this.pending.set(query.request_id, { query, sent: false, seq: -1, moves: 0, timer: null });
    this.watch(query.request_id);
    if (this.socket?.readyState === WebSocket.OPEN) this.send(query.request_id);
    else if (!this.socket && !this.retry) this.open();
  }

  open() {
    clearTimeout(this.retry);
    this.retry = null;
    const address = new URL(this.url);
    address.searchParams.set("token", this.token);
    if (this.session) address.searchParams.set("session", this.session);
    this.onState(this.attempts ? "reconnecting" : "connecting");
    const socket = (this.socket = new WebSocket(address));
    const late = setTimeout(() => socket.close(), this.figures.connect_timeout_s * 1000);
    let opened = false;
    socket.onopen = () => {
      clearTimeout(late);
      opened = true;
      this.attempts = 0;
      this.onState("open");
      for (const id of this.pending.keys()) this.send(id);
    };
    socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    socket.onclose = () => {
      clearTimeout(late);
      if (this.socket === socket) this.closed(opened);
    };
  }

  send(id) {
    const pending = this.pending.get(id);
    const resume = { action: "resume", request_id: id, after: pending.seq };
    this.socket.send(JSON.stringify(pending.sent ? resume : { action: "query", ...pending.query }));
    pending.sent = true;
  }

  receive(frame) {
    // The gateway's own words for a back end that does not answer; they belong to no question.
    if (!frame.type) for (const id of [...this.pending.keys()]) this.lose(id, "failed");
    if (frame.type === "session") this.session = frame.session_id;
    const pending = this.pending.get(frame.request_id);
    if (!pending || (frame.seq ?? Infinity) <= pending.seq) return;
    if (frame.code === "not_found" && pending.seq < 0 && !pending.again) {
      // The connection broke before the question arrived: the server knows nothing of it.
      Object.assign(pending, { again: true, sent: false });
      this.send(frame.request_id);
      return;
    }
    if (frame.code === "going_away" && pending.moves < this.figures.reconnect_attempts) {
      // Another server takes it: what was not begun is asked again there, what was goes on.
      Object.assign(pending, { moves: pending.moves + 1, again: false });
      this.socket.close();
      return;
    }
    pending.seq = frame.seq ?? pending.seq;
    this.watch(frame.request_id);
    if (frame.type === "done" || frame.type === "error") this.forget(frame.request_id);
    this.onFrame(frame);
  }

  closed(opened) {
    this.socket = null;
    if (expired(this.token)) this.giveUp("expired");
    else if (!this.pending.size) this.onState(opened ? "asleep" : "lost");
    else if (this.attempts >= this.figures.reconnect_attempts) this.giveUp("lost");
    else this.openLater();
  }

  openLater() {
    // Back-off with full jitter (Brooker, 2015).
    const ceiling = Math.min(this.figures.reconnect_backoff_ms * 2 ** this.attempts, this.figures.reconnect_backoff_max_ms);
    this.attempts += 1;
    this.onState("reconnecting");
    this.retry = setTimeout(() => this.open(), Math.random() * ceiling);
  }

  giveUp(reason) {
    this.attempts = 0;
    this.onState(reason);
    for (const id of [...this.pending.keys()]) this.lose(id, reason);
  }

  lose(id, reason) {
    this.forget(id);
    this.onFrame({ type: "lost", request_id: id, reason });
  }

  watch(id) {
    const pending = this.pending.get(id);
    const patience_s = this.figures.stream_timeout_s + this.figures.send_timeout_s;
    this.unwatch(id);
    pending.timer = setTimeout(() => this.lose(id, "slow"), patience_s * 1000);
    // After a silence the answer is asked to go on: whoever made it may be gone, and another there.
    const goOn = () => this.socket?.readyState === WebSocket.OPEN && this.send(id);
    pending.nudge = setInterval(goOn, this.figures.resume_after_silence_s * 1000);
  }

  unwatch(id) {
    clearTimeout(this.pending.get(id)?.timer);
    clearInterval(this.pending.get(id)?.nudge);
  }

  forget(id) {
    this.unwatch(id);
    this.pending.delete(id);
  }

  close() {
    clearTimeout(this.retry);
    for (const id of [...this.pending.keys()]) this.forget(id);
    const socket = this.socket;
    this.socket = this.session = null;
    this.attempts = 0;
    socket?.close();
  }
}

function expired(token) {
  // A refused connection does not tell the browser why; the token itself does.
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return claims.exp * 1000 <= Date.now();
  } catch {
    return true; // what cannot be read is no sign-in
  }
}

// An answer on the screen

function make(tag, className, text, attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function shopLink(address, shop) {
  // The address where it leads to the shop, else null; never javascript: or another site.
  try {
    const [there, home] = [new URL(address), new URL(shop)];
    const below = there.pathname.startsWith(home.pathname.replace(/\/?$/, "/"));
    return /^https?:$/.test(there.protocol) && there.origin === home.origin && below ? there.href : null;
  } catch {
    return null;
  }
}

// Light Markdown as it grows: **bold**, lists, links to the shop. A line that is over is never touched again.
class Prose {
  constructor(root, shop) {
    Object.assign(this, { root, shop, line: "", block: null, list: null, paragraph: null, settled: false });
  }

  append(text) {
    const lines = (this.line + text).split("\n");
    this.line = lines.pop();
    for (const line of lines) {
      this.draw(line, true);
      this.block = null;
      if (!line.trim()) this.paragraph = this.list = null;
    }
    if (this.line) this.draw(this.line, false);
  }

  finish() {
    if (this.line) this.draw(this.line, true);
    this.line = "";
    this.block = null;
  }

  draw(line, over) {
    if (!line.trim()) return;
    const [, mark, number] = (this.settled ? null : /^\s*([-*•]|(\d{1,3})[.)])\s/.exec(line)) ?? [];
    // Before its second character, a line may still become a list's.
    if (!over && !this.block && /^\s*([-*•]|\d{1,3}[.)]?)$/.test(line)) return;
    this.block ??= mark ? this.item(number) : this.paragraphLine();
    // A very long line is settled piece by piece, so that a frame costs the same at its end as at its beginning.
    const cut = mark ? line.indexOf(mark) + mark.length + 1 : 0;
    this.block.replaceChildren(...inline(line.slice(cut), this.shop, over));
    this.settled = over ? false : this.settled;
    if (!over && line.length > 600 && !stillOpen(line)) {
      this.line = "";
      this.settled = true;
      this.block = this.block.parentNode.appendChild(make("span"));
    }
  }

  item(number) {
    const tag = number ? "OL" : "UL";
    if (this.list?.tagName !== tag) {
      this.list = this.root.appendChild(make(tag));
      if (number) this.list.start = Number(number);
    }
    this.paragraph = null;
    return this.list.appendChild(make("li")).appendChild(make("span"));
  }

  paragraphLine() {
    this.list = null;
    if (this.paragraph) this.paragraph.append(make("br"));
    this.paragraph ??= this.root.appendChild(make("p"));
    return this.paragraph.appendChild(make("span"));
  }
}

function stillOpen(line) {
  return line.split("**").length % 2 === 0 || /\*$|\[[^\]]*(\](\([^)]*)?)?$/.test(line);
}

function inline(text, shop, over) {
  // Pieces that are still open at the end of a growing line are drawn as what they will be.
  const pattern = over
    ? /\*\*(.+?)\*\*|\[([^\]\n]+)\]\(([^)\s]*)\)/g
    : /\*\*(.+?)(?:\*\*|\*?$)|\*{1,2}$|\[([^\]\n]+)(?:\]\(([^)\s]*)\)|\]?(?:\([^)\s]*)?$)/g;
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    const [all, bold, label, address] = match;
    nodes.push(document.createTextNode(text.slice(from, match.index)));
    from = match.index + all.length;
    const href = address === undefined ? null : shopLink(address, shop);
    if (bold) nodes.push(make("strong", "", bold));
    else if (href) nodes.push(make("a", "", label, { href, target: "_blank", rel: "noopener noreferrer" }));
    else nodes.push(document.createTextNode(address === undefined ? label ?? "" : all));
  }
  nodes.push(document.createTextNode(text.slice(from)));
  return nodes;
}

// Thumbnails are drawn from the title; the first time a rough one is shown, and a sharp one a frame later.
const drawn = new Set();
const DRAWN_MAX = 500;

function thumbnail(id, title) {
  const canvas = make("canvas", drawn.has(id) ? "" : "rough", "", { width: 96, height: 128, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  let seed = 7;
  for (const letter of id + title) seed = (seed * 31 + letter.codePointAt(0)) % 99991;
  seed = (seed * 137) % 360;
  pen.fillStyle = `hsl(${seed} 45% 32%)`;
  pen.fillRect(0, 0, 96, 128);
  pen.fillStyle = `hsl(${(seed + 40) % 360} 55% 46%)`;
  pen.beginPath();
  pen.moveTo(0, 128);
  pen.lineTo(96, 40 + (seed % 40));
  pen.lineTo(96, 128);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.textAlign = "center";
  pen.font = `bold ${languageOf(title) === "ja" ? 34 : 40}px sans-serif`;
  const letters = languageOf(title) === "ja" ? [...title].slice(0, 2) : title.split(/\s+/, 2).map((word) => [...word][0] ?? "");
  pen.fillText(letters.join(""), 48, 76, 88);
  requestAnimationFrame(() => requestAnimationFrame(() => canvas.classList.remove("rough")));
  if (drawn.size >= DRAWN_MAX) drawn.clear();
  drawn.add(id);
  return canvas;
}

class Answer {
  constructor({ question, words, figures, onAsk, onRetry }) {
    Object.assign(this, { question, words, figures, onAsk, onRetry, cards: new Map(), intent: "" });
    this.lang = languageOf(question);
    this.root = make("article", "exchange");
    const asked = make("p", "question", question, { lang: this.lang });
    asked.prepend(make("span", "aside", `${words.you}: `));
    this.body = make("div", "answer", "", { "aria-busy": "true", "data-phase": "instant" });
    this.tag = make("span", "tag");
    this.tag.hidden = true;
    this.status = make("span", "status", words.thinking);
    this.head = make("p", "head");
    this.head.append(make("span", "aside", `${words.assistant}: `), this.tag, make("span", "dots", "", { "aria-hidden": "true" }), this.status);
    this.strip = make("ul", "cards");
    this.text = make("div", "prose", "", { lang: this.lang });
    this.prose = new Prose(this.text, figures.shop_url);
    this.body.append(this.head, this.strip, this.text);
    this.skeletons(1);
    this.root.append(asked, this.body);
  }

  set phase(name) {
    this.body.dataset.phase = name;
    this.body.setAttribute("aria-busy", String(name !== "complete" && name !== "failed"));
  }

  get phase() {
    return this.body.dataset.phase;
  }

  skeletons(count) {
    const there = this.strip.querySelectorAll(".skeleton");
    for (let at = there.length; at < count; at += 1) this.strip.append(make("li", "card skeleton", "", { "aria-hidden": "true" }));
    for (let at = count; at < there.length; at += 1) there[at].remove();
    this.strip.hidden = !this.strip.children.length;
  }

  showStatus({ state, message, intent }) {
    if (this.phase === "instant") this.phase = "context";
    if (intent && intent !== this.intent) {
      this.intent = intent;
      this.tag.textContent = this.words.intents[intent] ?? intent;
      this.tag.hidden = false;
      const expected = this.figures.placeholders[intent] ?? 0;
      this.body.classList.toggle("shelf", expected > 0);
      if (expected) this.skeletons(Math.max(0, expected - this.cards.size));
    }
    this.status.textContent = this.words.statuses[state === "typing" ? intent : state] ?? message;
  }

  showText(text) {
    if (this.phase !== "streaming") {
      this.phase = "streaming";
      this.status.textContent = "";
      if (!this.body.classList.contains("shelf")) this.skeletons(0);
    }
    this.prose.append(text);
  }

  showCard(card) {
    let item = this.cards.get(card.manga_id);
    if (!item) {
      item = this.strip.querySelector(".skeleton") ?? this.strip.appendChild(make("li"));
      this.strip.hidden = false;
      this.cards.set(card.manga_id, item);
    }
    const japanese = this.words === WORDS.ja;
    const title = japanese ? card.title_ja : card.title;
    item.removeAttribute("aria-hidden");
    item.className = `card ${card.kind}`;
    item.dataset.mangaId = card.manga_id;
    const facts = make("div", "facts");
    facts.append(make("strong", "", title, { lang: languageOf(title) }), make("span", "", this.words.by(card.author)));
    const kind = card.kind === "product" ? `${this.words.volumes(card.volumes)} · ${card.genres.join(", ")}` : card.genres.join(", ");
    facts.append(make("span", "", kind));
    const more = make("button", "more", this.words.more, { type: "button", "aria-label": `${this.words.more}: ${title}` });
    more.onclick = () => this.onAsk(WORDS[this.lang].moreAbout(this.lang === "ja" ? card.title_ja : card.title));
    const acts = make("div", "acts");
    acts.append(this.buyButton(card, title), more);
    facts.append(acts);
    const focused = item.contains(document.activeElement) ? document.activeElement.className : null;
    item.replaceChildren(item.querySelector("canvas") ?? thumbnail(card.manga_id, title), facts);
    if (focused) item.querySelector(`.${focused}`)?.focus();
  }

  buyButton(card, title) {
    const href = card.kind === "product" && card.stock > 0 ? shopLink(card.url, this.figures.shop_url) : null;
    if (href) {
      const label = this.words.buy(card.price_usd.toFixed(2));
      return make("a", "buy", label, { href, target: "_blank", rel: "noopener noreferrer", "aria-label": `${label}: ${title}` });
    }
    const why = card.kind === "product" ? this.words.soldOut : this.words.pending;
    return make("button", "buy", why, { type: "button", disabled: "" });
  }

  finish(metadata) {
    this.prose.finish();
    this.status.textContent = "";
    this.skeletons(0);
    this.phase = "complete";
    const source = this.words.sources[metadata.source] ?? metadata.source;
    this.body.append(make("p", "meta", `${metadata.tokens} tokens · ${source} · ${(metadata.total_ms / 1000).toFixed(1)} s`));
  }

  fail(message) {
    this.prose.finish();
    this.status.textContent = "";
    this.skeletons(0);
    this.phase = "failed";
    const again = make("button", "again", this.words.again, { type: "button" });
    again.onclick = () => this.onRetry(this.question);
    const problem = make("p", "problem", `${message} `);
    problem.append(again);
    this.body.append(problem);
  }
}

// The stopwatch: what was sent, received and painted, in ms since the question was sent.

class Stopwatch {
  constructor(query, onWhole) {
    Object.assign(this, { query, onWhole, start: performance.now(), asked_at: new Date().toISOString(), rows: [], slowest: null });
    this.row("sent", "", this.start, 0).painted_ms = 0;
  }

  row(event, detail, at, tick) {
    const row = { event, detail, received_ms: at - this.start, painted_ms: null, animation_frames: null, tick };
    this.rows.push(row);
    return row;
  }

  // The rows that a frame brings; of text, besides the first token, only the one that took longest is kept.
  rowsOf(frame, at, tick) {
    switch (frame.type) {
      case "status": return [this.row("status", frame.state, at, tick)];
      case "card": return [this.row("card", `${frame.card.kind} ${frame.card.manga_id}`, at, tick)];
      case "chunk": return [this.first ? { event: "text", received_ms: at - this.start, tick } : (this.first = this.row("first_token", "", at, tick))];
      default: return [this.row(frame.type, frame.code ?? frame.reason ?? "", at, tick)];
    }
  }

  painted(row, at, tick) {
    row.painted_ms = at === null ? null : at - this.start;
    row.animation_frames = at === null ? null : tick - row.tick;
    if (row.event === "text" || row.event === "first_token") {
      this.texts = (this.texts ?? 0) + 1;
      const late = (one) => (one?.painted_ms == null ? -1 : one.painted_ms - one.received_ms);
      if (late(row) > late(this.slowest)) this.slowest = { ...row, event: "slowest_text" };
    }
    if (ENDS.includes(row.event)) {
      if (this.slowest) this.rows.push({ ...this.slowest, detail: `of ${this.texts}` });
      this.onWhole(this);
    }
  }

  table({ intent = "", source = "" } = {}) {
    const round = (ms) => (ms === null ? null : Math.round(ms * 100) / 100);
    return this.rows.map(({ event, detail, received_ms, painted_ms, animation_frames }) => ({
      request_id: this.query.request_id, asked_at: this.asked_at, intent, source, event, detail,
      received_ms: round(received_ms), painted_ms: round(painted_ms), animation_frames,
    }));
  }
}

// The timeline beside the budget: received (hollow) and painted (filled), as an overlay.

function drawTimeline(panel, rows, figures, words) {
  const budget = figures.first_token_budget_ms[rows[0].intent] ?? figures.first_token_budget_ms.default;
  const shown = rows.filter((row) => row.event !== "slowest_text" && row.event !== "sent");
  const until = Math.max(budget * 1.1, ...shown.map((row) => row.painted_ms ?? row.received_ms)) * 1.02;
  const list = make("ol", "marks");
  for (const row of shown) {
    const item = make("li");
    const track = make("span", "track", "", { "aria-hidden": "true" });
    for (const [kind, ms] of [["budget", budget], ["received", row.received_ms], ["painted", row.painted_ms]]) {
      if (ms === null) continue;
      const mark = track.appendChild(make("i", kind));
      mark.style.setProperty("left", `${(100 * ms) / until}%`);
    }
    const at = row.painted_ms === null ? `(${row.received_ms.toFixed(0)})` : row.painted_ms.toFixed(0);
    const over = row.event === "first_token" && (row.painted_ms ?? row.received_ms) > budget;
    item.append(make("span", "", `${row.event} ${row.detail}`), track, make("span", over ? "over" : "", `${at} ms`));
    list.append(item);
  }
  panel.replaceChildren(make("p", "", `${words.timeline}: ○ received ● painted ┆ ${words.budget(budget)}`), list);
}

// Putting it together

export class Chat {
  constructor(host, { lang = "auto", heading = "", onTimeline = () => {} } = {}) {
    const language = lang === "auto" ? (navigator.language.startsWith("ja") ? "ja" : "en") : lang;
    this.words = WORDS[language];
    this.onTimeline = onTimeline;
    this.timeline = [];
    this.running = new Map();
    this.arrived = []; // frames that wait for the next beat
    this.begun = []; // questions that do
    this.awaitingPaint = [];
    this.figures = null;
    this.ticks = 0;
    this.beating = false;
    this.connection = new Connection({ onFrame: (frame) => this.receive(frame), onState: (name) => this.showState(name) });
    // A message to oneself, sent while a frame is drawn, arrives when that frame has been painted.
    this.paint = new MessageChannel();
    this.paint.port1.onmessage = () => this.painted();
    this.build(language, heading);
    this.listen();
    host.append(this.root);
  }

  connect(options) {
    this.figures = options.figures;
    this.input.maxLength = options.figures.max_query_chars;
    this.input.disabled = this.send.disabled = false;
    this.connection.connect(options);
  }

  ask(text) {
    const question = text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, "").trim();
    if (!question || !this.figures) return;
    const query = { text: question, request_id: uuid() };
    const watch = new Stopwatch(query, () => this.whole(watch));
    const ask = (next) => this.ask(next);
    const answer = new Answer({ question, words: this.words, figures: this.figures, onAsk: ask, onRetry: ask });
    this.running.set(query.request_id, { answer, watch });
    this.log.append(answer.root);
    while (this.log.children.length > this.figures.exchanges_max) this.log.firstChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
    this.say(this.words.thinking);
    this.begun.push([watch, watch.row("instant", "", watch.start, this.ticks)]);
    this.connection.ask(query);
    this.beat();
  }

  clear() {
    this.connection.close();
    this.running.clear();
    this.arrived.length = 0;
    this.log.replaceChildren();
    this.panel.replaceChildren();
    this.say("");
    if (this.figures) this.connection.open();
  }

  close() {
    this.connection.close();
    this.running.clear();
    this.paint.port1.close();
    this.root.remove();
  }

  build(language, heading) {
    const words = this.words;
    this.root = make("section", "manga-chat", "", { lang: language, "aria-label": heading || words.chat });
    this.root.dataset.lmSuppressShortcuts = "true"; // a notebook has keys of its own
    this.state = make("span", "state", words.states.waiting, { "data-state": "waiting" });
    this.toggle = make("button", "toggle", words.timeline, { type: "button", "aria-pressed": "false" });
    this.fresh = make("button", "clear", words.clear, { type: "button" });
    const bar = make("header", "bar");
    bar.append(make("strong", "", heading || "MangaAssist"), this.state, this.toggle, this.fresh);
    this.log = make("div", "log", "", { role: "log", "aria-live": "off", "aria-label": words.conversation, tabindex: "0" });
    this.panel = make("aside", "timeline", "", { "aria-label": words.timeline });
    this.panel.hidden = true;
    this.form = make("form", "composer");
    this.input = make("textarea", "", "", { rows: "1", placeholder: words.hint, "aria-label": words.question });
    this.send = make("button", "send", words.send, { type: "submit" });
    this.input.disabled = this.send.disabled = true;
    this.form.append(this.input, this.send);
    this.announcer = make("div", "aside announcer", "", { role: "status", "aria-live": "polite" });
    this.root.append(bar, this.log, this.panel, this.form, this.announcer);
  }

  listen() {
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.ask(this.input.value);
      this.input.value = "";
      this.input.focus();
    };
    this.input.onkeydown = (event) => {
      // Enter also confirms what an input method for Japanese proposes; that is not sending.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    };
    this.toggle.onclick = () => {
      this.panel.hidden = !this.panel.hidden;
      this.toggle.setAttribute("aria-pressed", String(!this.panel.hidden));
    };
    this.fresh.onclick = () => {
      this.clear();
      this.input.focus();
    };
  }

  // What is happening, for who hears it.
  say(text) {
    this.announcer.textContent = text;
  }

  showState(name) {
    this.state.textContent = this.words.states[name];
    this.state.dataset.state = name;
    if (name === "lost" || name === "expired") this.say(this.words[name]);
  }

  receive(frame) {
    this.arrived.push({ frame, at: performance.now(), tick: this.ticks });
    this.beat();
  }

  // One beat an animation frame while answers run: everything that came is drawn, then it is painted.
  beat() {
    if (this.beating) return;
    this.beating = true;
    const next = () => {
      this.beating = false;
      this.ticks += 1;
      this.draw();
      if (this.running.size) this.beat();
    };
    // A hidden page has no animation frames; what comes is drawn all the same.
    if (document.hidden) setTimeout(next, 200);
    else requestAnimationFrame(next);
  }

  draw() {
    const rows = this.begun.splice(0);
    const took = this.arrived.splice(0);
    const pinned = took.length && this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    for (const { frame, at, tick } of took) {
      const { answer, watch } = this.running.get(frame.request_id) ?? {};
      if (!answer) continue;
      for (const row of watch.rowsOf(frame, at, tick)) rows.push([watch, row]);
      this.show(answer, watch, frame);
    }
    if (pinned) this.log.scrollTop = this.log.scrollHeight;
    if (!rows.length) return;
    this.awaitingPaint.push({ rows: rows.filter(staysOnScreen), seen: !document.hidden, tick: this.ticks });
    this.paint.port2.postMessage(null);
  }

  painted() {
    const { rows, seen, tick } = this.awaitingPaint.shift();
    const now = seen ? performance.now() : null;
    for (const [watch, row] of rows) watch.painted(row, now, tick);
  }

  show(answer, watch, frame) {
    switch (frame.type) {
      case "status":
        answer.showStatus(frame);
        this.say(answer.status.textContent);
        break;
      case "chunk": answer.showText(frame.text); break;
      case "card": answer.showCard(frame.card); break;
      case "done":
        answer.finish(frame.metadata);
        watch.about = { intent: frame.metadata.intent, source: frame.metadata.source };
        break;
      case "error": answer.fail(frame.message); break;
      case "lost": answer.fail(this.words[frame.reason]); break;
    }
    if (!ENDS.includes(frame.type)) return;
    this.running.delete(frame.request_id);
    this.say(answer.body.querySelector(".problem")?.textContent ?? answer.text.textContent);
  }

  whole(watch) {
    const rows = watch.table(watch.about);
    this.timeline.push(...rows);
    this.timeline.splice(0, this.timeline.length - this.figures.timeline_rows_max);
    drawTimeline(this.panel, rows, this.figures, this.words);
    this.onTimeline(rows);
  }
}

// A status that the next frame of its answer has replaced already is never painted.
function staysOnScreen([watch, row], at, rows) {
  const replacing = ["status", "first_token", ...ENDS];
  return row.event !== "status" || !rows.slice(at + 1).some(([other, later]) => other === watch && replacing.includes(later.event));
}

function uuid() {
  // crypto.randomUUID exists on secure origins only; a notebook may be reached by plain http.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// In a notebook: the address and the token come as a message, never as state that a saved notebook would keep.
export default {
  render({ model, el }) {
    const chat = new Chat(el, {
      lang: model.get("lang"),
      heading: model.get("heading"),
      onTimeline: (rows) => model.send({ kind: "timeline", rows }),
    });
    const receive = (message) => message.kind === "connect" && chat.connect(message);
    model.on("msg:custom", receive);
    model.send({ kind: "ready" });
    return () => {
      model.off("msg:custom", receive);
      chat.close();
    };
  },
};
