// MangaAssist's chat: one element for the page and the notebook widget, without dependencies or a build step. A widget takes a
// single file, so all parts are here, in the order in which data flows:
//
//   WORDS         the texts, in English and Japanese
//   Connection    frames from the gateway; reconnects and resumes
//   Prose         Markdown that grows as text arrives
//   drawCard      a card: its thumbnail, text and buttons (its look: "Cards" in chat.css)
//   Answer        a question and its answer on the screen
//   Stopwatch     when each event was received and painted
//   drawTimeline  the timeline overlay
//   Chat          all of these together, drawn once per animation frame
//
//   const chat = new Chat(host, { lang: "en", onTimeline: rows => ... });
//   chat.connect({ url, token, figures });   // again with a new token after the first has expired
//
// `figures` are the product's settings (browser_settings.py); no figure is defined here.
// All text from customers, models and the catalogue is inserted as text nodes; this file never parses HTML.

// Texts. English status texts come with the `status` frames (mangalib/domain/intents.py); Japanese ones are here.

const WORDS = {
  en: {
    chat: "Chat with MangaAssist", conversation: "Conversation", question: "Your question", you: "You", assistant: "MangaAssist",
    hint: "Ask about a manga, an order, or what to read next", send: "Send", clear: "New conversation", timeline: "Timeline",
    thinking: "Thinking...", more: "Tell me more", moreAbout: (title) => `Tell me about ${title}`, again: "Try again",
    buy: (usd) => `Buy · $${usd}`, soldOut: "Out of stock", pending: "Price to follow", volumes: (count) => `${count} volumes`,
    by: (author) => `by ${author}`, budget: (ms) => `budget ${ms} ms`, slow: "The answer is taking too long. The text so far is kept.",
    failed: "Sorry, I ran into an issue. Please try again.",
    lost: "The connection was lost and could not be restored. The text so far is kept.",
    expired: "Your sign-in has expired. Sign in again, then try again.",
    states: { waiting: "Waiting for an address", connecting: "Connecting", open: "Connected", asleep: "Connects when you ask",
      reconnecting: "Reconnecting", lost: "No connection", expired: "Sign-in expired" },
    intents: { recommendation: "Recommendation", product_search: "Product", order_status: "Order", comparison: "Comparison",
      complaint: "Complaint", faq: "Question", greeting: "Greeting", other: "Other", default: "Question" },
    sources: { model: "model", semantic_cache: "from the cache", precomputed: "precomputed", trending: "trending" },
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
const FINAL_EVENTS = ["done", "error", "lost"];
const JAPANESE = /[\u3040-\u30ff\u4e00-\u9fff]/;
const languageOf = (text) => (JAPANESE.test(text) ? "ja" : "en");

// The connection

class Connection {
  // `onFrame(frame)` receives each frame of an answer once, or {type: "lost", request_id, reason} if it cannot be completed.
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
    this.pending.set(query.request_id, { query, sent: false, seq: -1, redirects: 0, timer: null });
    this.startTimers(query.request_id);
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
    const connectTimer = setTimeout(() => socket.close(), this.figures.connect_timeout_s * 1000);
    let opened = false;
    socket.onopen = () => {
      clearTimeout(connectTimer);
      opened = true;
      this.attempts = 0;
      this.onState("open");
      for (const id of this.pending.keys()) this.send(id);
    };
    socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    socket.onclose = () => {
      clearTimeout(connectTimer);
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
    // The gateway reports a back end that failed without naming the request.
    if (!frame.type) for (const id of [...this.pending.keys()]) this.lose(id, "failed");
    if (frame.type === "session") this.session = frame.session_id;
    const pending = this.pending.get(frame.request_id);
    if (!pending || (frame.seq ?? Infinity) <= pending.seq) return;
    if (frame.code === "not_found" && pending.seq < 0 && !pending.resent) {
      // The connection broke before the question reached the server.
      Object.assign(pending, { resent: true, sent: false });
      this.send(frame.request_id);
      return;
    }
    if (frame.code === "going_away" && pending.redirects < this.figures.reconnect_attempts) {
      // The server is draining: another one answers the question, or resumes the answer.
      Object.assign(pending, { redirects: pending.redirects + 1, resent: false });
      this.socket.close();
      return;
    }
    pending.seq = frame.seq ?? pending.seq;
    this.startTimers(frame.request_id);
    if (frame.type === "done" || frame.type === "error") this.forget(frame.request_id);
    this.onFrame(frame);
  }

  closed(opened) {
    this.socket = null;
    if (expired(this.token)) this.loseAll("expired");
    else if (!this.pending.size) this.onState(opened ? "asleep" : "lost");
    else if (this.attempts >= this.figures.reconnect_attempts) this.loseAll("lost");
    else this.reconnect();
  }

  reconnect() {
    // Back-off with full jitter (Brooker, 2015).
    const ceiling = Math.min(this.figures.reconnect_backoff_ms * 2 ** this.attempts, this.figures.reconnect_backoff_max_ms);
    this.attempts += 1;
    this.onState("reconnecting");
    this.retry = setTimeout(() => this.open(), Math.random() * ceiling);
  }

  loseAll(reason) {
    this.attempts = 0;
    this.onState(reason);
    for (const id of [...this.pending.keys()]) this.lose(id, reason);
  }

  lose(id, reason) {
    this.forget(id);
    this.onFrame({ type: "lost", request_id: id, reason });
  }

  startTimers(id) {
    const pending = this.pending.get(id);
    const timeout_s = this.figures.stream_timeout_s + this.figures.send_timeout_s;
    this.stopTimers(id);
    pending.timer = setTimeout(() => this.lose(id, "slow"), timeout_s * 1000);
    // Resume after a silence: the orchestrator that generated the answer may have been replaced by another.
    const resume = () => this.socket?.readyState === WebSocket.OPEN && this.send(id);
    pending.resumer = setInterval(resume, this.figures.resume_after_silence_s * 1000);
  }

  stopTimers(id) {
    clearTimeout(this.pending.get(id)?.timer);
    clearInterval(this.pending.get(id)?.resumer);
  }

  forget(id) {
    this.stopTimers(id);
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
  // A browser does not learn why a connection was refused; the token shows whether it has expired.
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return claims.exp * 1000 <= Date.now();
  } catch {
    return true; // an unreadable token cannot be used
  }
}

// Text as it grows

function element(tag, className, text, attributes = {}) {
  const created = document.createElement(tag);
  if (className) created.className = className;
  if (text) created.textContent = text;
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  return created;
}

function shopLink(address, shop) {
  // The address if it leads to the shop, else null: no javascript: URL and no other site.
  try {
    const [target, base] = [new URL(address), new URL(shop)];
    const below = target.pathname.startsWith(base.pathname.replace(/\/?$/, "/"));
    return /^https?:$/.test(target.protocol) && target.origin === base.origin && below ? target.href : null;
  } catch {
    return null;
  }
}

// Markdown that grows: **bold**, lists, links to the shop. A complete line is never drawn again.
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

  draw(line, complete) {
    if (!line.trim()) return;
    const [, mark, number] = (this.settled ? null : /^\s*([-*•]|(\d{1,3})[.)])\s/.exec(line)) ?? [];
    // Until its second character, a line may still become a list item.
    if (!complete && !this.block && /^\s*([-*•]|\d{1,3}[.)]?)$/.test(line)) return;
    this.block ??= mark ? this.item(number) : this.paragraphLine();
    // A very long line is settled in pieces, so that each frame costs the same however long the line is.
    const cut = mark ? line.indexOf(mark) + mark.length + 1 : 0;
    this.block.replaceChildren(...inline(line.slice(cut), this.shop, complete));
    this.settled = complete ? false : this.settled;
    if (!complete && line.length > 600 && !hasOpenMarkup(line)) {
      this.line = "";
      this.settled = true;
      this.block = this.block.parentNode.appendChild(element("span"));
    }
  }

  item(number) {
    const tag = number ? "OL" : "UL";
    if (this.list?.tagName !== tag) {
      this.list = this.root.appendChild(element(tag));
      if (number) this.list.start = Number(number);
    }
    this.paragraph = null;
    return this.list.appendChild(element("li")).appendChild(element("span"));
  }

  paragraphLine() {
    this.list = null;
    if (this.paragraph) this.paragraph.append(element("br"));
    this.paragraph ??= this.root.appendChild(element("p"));
    return this.paragraph.appendChild(element("span"));
  }
}

function hasOpenMarkup(line) {
  return line.split("**").length % 2 === 0 || /\*$|\[[^\]]*(\](\([^)]*)?)?$/.test(line);
}

function inline(text, shop, complete) {
  // Unclosed markup at the end of a growing line is drawn as if it were closed.
  const pattern = complete
    ? /\*\*(.+?)\*\*|\[([^\]\n]+)\]\(([^)\s]*)\)/g
    : /\*\*(.+?)(?:\*\*|\*?$)|\*{1,2}$|\[([^\]\n]+)(?:\]\(([^)\s]*)\)|\]?(?:\([^)\s]*)?$)/g;
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    const [all, bold, label, address] = match;
    nodes.push(document.createTextNode(text.slice(from, match.index)));
    from = match.index + all.length;
    const href = address === undefined ? null : shopLink(address, shop);
    if (bold) nodes.push(element("strong", "", bold));
    else if (href) nodes.push(element("a", "", label, { href, target: "_blank", rel: "noopener noreferrer" }));
    else nodes.push(document.createTextNode(address === undefined ? label ?? "" : all));
  }
  nodes.push(document.createTextNode(text.slice(from)));
  return nodes;
}

// Cards

// Thumbnails are drawn from the title; a blurred one is shown first, and a sharp one a frame later.
const drawn = new Set();
const DRAWN_MAX = 500;

function thumbnail(id, title) {
  const canvas = element("canvas", drawn.has(id) ? "" : "rough", "", { width: 96, height: 128, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  let hash = 7;
  for (const character of id + title) hash = (hash * 31 + character.codePointAt(0)) % 99991;
  const hue = (hash * 137) % 360;
  pen.fillStyle = `hsl(${hue} 45% 32%)`;
  pen.fillRect(0, 0, 96, 128);
  pen.fillStyle = `hsl(${(hue + 40) % 360} 55% 46%)`;
  pen.beginPath();
  pen.moveTo(0, 128);
  pen.lineTo(96, 40 + (hue % 40));
  pen.lineTo(96, 128);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.textAlign = "center";
  pen.font = `bold ${languageOf(title) === "ja" ? 34 : 40}px sans-serif`;
  const initials = languageOf(title) === "ja" ? [...title].slice(0, 2) : title.split(/\s+/, 2).map((word) => [...word][0] ?? "");
  pen.fillText(initials.join(""), 48, 76, 88);
  requestAnimationFrame(() => requestAnimationFrame(() => canvas.classList.remove("rough")));
  if (drawn.size >= DRAWN_MAX) drawn.clear();
  drawn.add(id);
  return canvas;
}

// Draws a card into its list item, again when its price arrives; the focused button keeps the focus.
function drawCard(item, card, { words, shop, onMore }) {
  const title = words === WORDS.ja ? card.title_ja : card.title;
  const product = card.kind === "product";
  item.removeAttribute("aria-hidden");
  item.className = `card ${card.kind}`;
  item.dataset.mangaId = card.manga_id;
  const more = element("button", "more", words.more, { type: "button", "aria-label": `${words.more}: ${title}` });
  more.onclick = onMore;
  const actions = element("div", "card-actions");
  actions.append(buyButton(card, title, words, shop), more);
  const genres = card.genres.join(", ");
  const text = element("div", "card-text");
  text.append(element("strong", "", title, { lang: languageOf(title) }), element("span", "", words.by(card.author)),
    element("span", "", product ? `${words.volumes(card.volumes)} · ${genres}` : genres), actions);
  const focused = item.contains(document.activeElement) ? document.activeElement.className : null;
  item.replaceChildren(item.querySelector("canvas") ?? thumbnail(card.manga_id, title), text);
  if (focused) item.querySelector(`.${focused}`)?.focus();
}

function buyButton(card, title, words, shop) {
  const href = card.kind === "product" && card.stock > 0 ? shopLink(card.url, shop) : null;
  if (href) {
    const label = words.buy(card.price_usd.toFixed(2));
    return element("a", "buy", label, { href, target: "_blank", rel: "noopener noreferrer", "aria-label": `${label}: ${title}` });
  }
  return element("button", "buy", card.kind === "product" ? words.soldOut : words.pending, { type: "button", disabled: "" });
}

// A question and its answer on the screen

class Answer {
  constructor({ question, words, figures, onAsk, onRetry }) {
    Object.assign(this, { question, words, figures, onAsk, onRetry, cards: new Map(), intent: "" });
    this.lang = languageOf(question);
    this.root = element("article", "exchange");
    const heading = element("p", "question", question, { lang: this.lang });
    heading.prepend(element("span", "visually-hidden", `${words.you}: `));
    this.body = element("div", "answer", "", { "aria-busy": "true", "data-phase": "instant" });
    this.tag = element("span", "tag");
    this.tag.hidden = true;
    this.status = element("span", "status", words.thinking);
    this.head = element("p", "head");
    this.head.append(element("span", "visually-hidden", `${words.assistant}: `), this.tag, element("span", "dots", "", { "aria-hidden": "true" }), this.status);
    this.strip = element("ul", "cards");
    this.text = element("div", "prose", "", { lang: this.lang });
    this.prose = new Prose(this.text, figures.shop_url);
    this.body.append(this.head, this.strip, this.text);
    this.setPlaceholders(1);
    this.root.append(heading, this.body);
  }

  set phase(name) {
    this.body.dataset.phase = name;
    this.body.setAttribute("aria-busy", String(name !== "complete" && name !== "failed"));
  }

  get phase() {
    return this.body.dataset.phase;
  }

  setPlaceholders(count) {
    const present = this.strip.querySelectorAll(".skeleton");
    for (let at = present.length; at < count; at += 1) this.strip.append(element("li", "card skeleton", "", { "aria-hidden": "true" }));
    for (let at = count; at < present.length; at += 1) present[at].remove();
    this.strip.hidden = !this.strip.children.length;
  }

  showStatus({ state, message, intent }) {
    if (this.phase === "instant") this.phase = "context";
    if (intent && intent !== this.intent) {
      this.intent = intent;
      this.tag.textContent = this.words.intents[intent] ?? intent;
      this.tag.hidden = false;
      const expected = this.figures.placeholders[intent] ?? 0;
      this.body.classList.toggle("with-cards", expected > 0);
      if (expected) this.setPlaceholders(Math.max(0, expected - this.cards.size));
    }
    this.status.textContent = this.words.statuses[state === "typing" ? intent : state] ?? message;
  }

  showText(text) {
    if (this.phase !== "streaming") {
      this.phase = "streaming";
      this.status.textContent = "";
      if (!this.body.classList.contains("with-cards")) this.setPlaceholders(0);
    }
    this.prose.append(text);
  }

  showCard(card) {
    let item = this.cards.get(card.manga_id);
    if (!item) {
      item = this.strip.querySelector(".skeleton") ?? this.strip.appendChild(element("li"));
      this.strip.hidden = false;
      this.cards.set(card.manga_id, item);
    }
    const ask = () => this.onAsk(WORDS[this.lang].moreAbout(this.lang === "ja" ? card.title_ja : card.title));
    drawCard(item, card, { words: this.words, shop: this.figures.shop_url, onMore: ask });
  }

  finish(metadata) {
    this.prose.finish();
    this.status.textContent = "";
    this.setPlaceholders(0);
    this.phase = "complete";
    const source = this.words.sources[metadata.source] ?? metadata.source;
    this.body.append(element("p", "meta", `${metadata.tokens} tokens · ${source} · ${(metadata.total_ms / 1000).toFixed(1)} s`));
  }

  fail(message) {
    this.prose.finish();
    this.status.textContent = "";
    this.setPlaceholders(0);
    this.phase = "failed";
    const again = element("button", "again", this.words.again, { type: "button" });
    again.onclick = () => this.onRetry(this.question);
    const problem = element("p", "problem", `${message} `);
    problem.append(again);
    this.body.append(problem);
  }
}

// The stopwatch: when each event was sent, received and painted, in ms since the question was sent

class Stopwatch {
  constructor(query, onComplete) {
    Object.assign(this, { query, onComplete, start: performance.now(), asked_at: new Date().toISOString(), rows: [], slowest: null });
    this.row("sent", "", this.start, 0).painted_ms = 0;
  }

  row(event, detail, at, tick) {
    const row = { event, detail, received_ms: at - this.start, painted_ms: null, animation_frames: null, tick };
    this.rows.push(row);
    return row;
  }

  // The rows for a frame; of text after the first token, only the one that waited longest to be painted is kept.
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
      const delay_ms = (text) => (text?.painted_ms == null ? -1 : text.painted_ms - text.received_ms);
      if (delay_ms(row) > delay_ms(this.slowest)) this.slowest = { ...row, event: "slowest_text" };
    }
    if (FINAL_EVENTS.includes(row.event)) {
      if (this.slowest) this.rows.push({ ...this.slowest, detail: `of ${this.texts}` });
      this.onComplete(this);
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

// The timeline overlay: received (hollow) and painted (filled) beside the budget

function drawTimeline(panel, rows, figures, words) {
  const budget = figures.first_token_budget_ms[rows[0].intent] ?? figures.first_token_budget_ms.default;
  const shown = rows.filter((row) => row.event !== "slowest_text" && row.event !== "sent");
  const until = Math.max(budget * 1.1, ...shown.map((row) => row.painted_ms ?? row.received_ms)) * 1.02;
  const list = element("ol", "marks");
  for (const row of shown) {
    const item = element("li");
    const track = element("span", "track", "", { "aria-hidden": "true" });
    for (const [kind, ms] of [["budget", budget], ["received", row.received_ms], ["painted", row.painted_ms]]) {
      if (ms === null) continue;
      const mark = track.appendChild(element("i", kind));
      mark.style.setProperty("left", `${(100 * ms) / until}%`);
    }
    const at = row.painted_ms === null ? `(${row.received_ms.toFixed(0)})` : row.painted_ms.toFixed(0);
    const over = row.event === "first_token" && (row.painted_ms ?? row.received_ms) > budget;
    item.append(element("span", "", `${row.event} ${row.detail}`), track, element("span", over ? "over" : "", `${at} ms`));
    list.append(item);
  }
  panel.replaceChildren(element("p", "", `${words.timeline}: ○ received ● painted ┆ ${words.budget(budget)}`), list);
}

// The whole chat

export class Chat {
  constructor(host, { lang = "auto", heading = "", onTimeline = () => {} } = {}) {
    const language = lang === "auto" ? (navigator.language.startsWith("ja") ? "ja" : "en") : lang;
    this.words = WORDS[language];
    this.onTimeline = onTimeline;
    this.timeline = [];
    this.running = new Map();
    this.received = []; // frames that wait to be drawn
    this.asked = []; // questions that wait to be drawn
    this.awaitingPaint = [];
    this.figures = null;
    this.ticks = 0;
    this.drawing = false;
    this.connection = new Connection({ onFrame: (frame) => this.receive(frame), onState: (name) => this.showState(name) });
    // A message sent to oneself while a frame is drawn arrives after that frame has been painted.
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
    const watch = new Stopwatch(query, () => this.completed(watch));
    const ask = (next) => this.ask(next);
    const answer = new Answer({ question, words: this.words, figures: this.figures, onAsk: ask, onRetry: ask });
    this.running.set(query.request_id, { answer, watch });
    this.log.append(answer.root);
    while (this.log.children.length > this.figures.exchanges_max) this.log.firstChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
    this.announce(this.words.thinking);
    this.asked.push([watch, watch.row("instant", "", watch.start, this.ticks)]);
    this.connection.ask(query);
    this.scheduleDraw();
  }

  clear() {
    this.connection.close();
    this.running.clear();
    this.received.length = 0;
    this.log.replaceChildren();
    this.panel.replaceChildren();
    this.announce("");
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
    this.root = element("section", "manga-chat", "", { lang: language, "aria-label": heading || words.chat });
    this.root.dataset.lmSuppressShortcuts = "true"; // keep JupyterLab from handling keys typed here
    this.state = element("span", "state", words.states.waiting, { "data-state": "waiting" });
    this.toggle = element("button", "toggle", words.timeline, { type: "button", "aria-pressed": "false" });
    this.clearButton = element("button", "clear", words.clear, { type: "button" });
    const bar = element("header", "bar");
    bar.append(element("strong", "", heading || "MangaAssist"), this.state, this.toggle, this.clearButton);
    this.log = element("div", "log", "", { role: "log", "aria-live": "off", "aria-label": words.conversation, tabindex: "0" });
    this.panel = element("aside", "timeline", "", { "aria-label": words.timeline });
    this.panel.hidden = true;
    this.form = element("form", "composer");
    this.input = element("textarea", "", "", { rows: "1", placeholder: words.hint, "aria-label": words.question });
    this.send = element("button", "send", words.send, { type: "submit" });
    this.input.disabled = this.send.disabled = true;
    this.form.append(this.input, this.send);
    this.announcer = element("div", "visually-hidden announcer", "", { role: "status", "aria-live": "polite" });
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
      // Enter also confirms a composition of a Japanese input method, which must not send.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    };
    this.toggle.onclick = () => {
      this.panel.hidden = !this.panel.hidden;
      this.toggle.setAttribute("aria-pressed", String(!this.panel.hidden));
    };
    this.clearButton.onclick = () => {
      this.clear();
      this.input.focus();
    };
  }

  // For screen readers.
  announce(text) {
    this.announcer.textContent = text;
  }

  showState(name) {
    this.state.textContent = this.words.states[name];
    this.state.dataset.state = name;
    if (name === "lost" || name === "expired") this.announce(this.words[name]);
  }

  receive(frame) {
    this.received.push({ frame, at: performance.now(), tick: this.ticks });
    this.scheduleDraw();
  }

  // Once per animation frame while answers run, draw everything received since the last one.
  scheduleDraw() {
    if (this.drawing) return;
    this.drawing = true;
    const next = () => {
      this.drawing = false;
      this.ticks += 1;
      this.draw();
      if (this.running.size) this.scheduleDraw();
    };
    // A hidden page has no animation frames, but is drawn all the same.
    if (document.hidden) setTimeout(next, 200);
    else requestAnimationFrame(next);
  }

  draw() {
    const rows = this.asked.splice(0);
    const frames = this.received.splice(0);
    const pinned = frames.length && this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    for (const { frame, at, tick } of frames) {
      const { answer, watch } = this.running.get(frame.request_id) ?? {};
      if (!answer) continue;
      for (const row of watch.rowsOf(frame, at, tick)) rows.push([watch, row]);
      this.show(answer, watch, frame);
    }
    if (pinned) this.log.scrollTop = this.log.scrollHeight;
    if (!rows.length) return;
    this.awaitingPaint.push({ rows: rows.filter(staysOnScreen), visible: !document.hidden, tick: this.ticks });
    this.paint.port2.postMessage(null);
  }

  painted() {
    const { rows, visible, tick } = this.awaitingPaint.shift();
    const now = visible ? performance.now() : null;
    for (const [watch, row] of rows) watch.painted(row, now, tick);
  }

  show(answer, watch, frame) {
    switch (frame.type) {
      case "status":
        answer.showStatus(frame);
        this.announce(answer.status.textContent);
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
    if (!FINAL_EVENTS.includes(frame.type)) return;
    this.running.delete(frame.request_id);
    this.announce(answer.body.querySelector(".problem")?.textContent ?? answer.text.textContent);
  }

  completed(watch) {
    const rows = watch.table(watch.about);
    this.timeline.push(...rows);
    this.timeline.splice(0, this.timeline.length - this.figures.timeline_rows_max);
    drawTimeline(this.panel, rows, this.figures, this.words);
    this.onTimeline(rows);
  }
}

// A status that a later frame in the same drawing replaces is never painted.
function staysOnScreen([watch, row], at, rows) {
  const replacing = ["status", "first_token", ...FINAL_EVENTS];
  return row.event !== "status" || !rows.slice(at + 1).some(([other, later]) => other === watch && replacing.includes(later.event));
}

function uuid() {
  // crypto.randomUUID exists on secure origins only, and a notebook may be served over plain HTTP.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The notebook widget: URL and token arrive as a message, never as state, which a saved notebook would contain.
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
