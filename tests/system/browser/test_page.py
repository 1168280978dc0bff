"""The chat's page in a real browser, on the local stack."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from redis.asyncio import Redis

from mangalib.domain.catalogue import Catalogue
from mangalib.local.stack import Stack, running_stack
from mangalib.precompute.facts import publish_facts
from tests.conftest import QUICK
from tests.flooding_service import flooding
from tests.headless_browser import ask_in, observed_in, open_chat, timeline_of, wait_for_answers, wait_until
from tests.system.browser.conftest import OpenPage

HOSTILE = '<script>globalThis.hacked = 1</script><img src="x" onerror="globalThis.hacked = 1">'
ANIMATION_FRAMES_MAX = 2
LAYOUT_SHIFT_MAX = 0.05


def connected(page: Page) -> None:
    expect(page.locator(".state")).to_have_attribute("data-state", "open")


def answer_of(page: Page) -> str:
    return page.locator(".prose").last.inner_text()


def model_text(stack: Stack, question: str) -> str:
    """The model's last answer to that question, verbatim."""
    texts = [t["text"] for t in stack.local("bedrock", "GET", "transcripts") if t["question"] == question]
    return texts[-1]


def plain(text: str) -> str:
    """The text without Markdown and white space."""
    return re.sub(r"\s+|\*\*|(?m:^\d+\. )", "", text)


def test_a_question_is_answered_in_three_phases(chat_page: OpenPage, stack: Stack) -> None:
    page = chat_page()
    connected(page)
    # On the screen in the task that sends: none of it waits for the network.
    first = page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const answer = document.querySelector(".answer"), tag = answer.querySelector(".tag");
                const skeletons = answer.querySelectorAll(".skeleton").length;
                seen.push([answer.dataset.phase, answer.getAttribute("aria-busy"), skeletons, tag.textContent].join());
            }).observe(document.body, { subtree: true, childList: true, attributes: true });
            mangaChat.ask("Recommend me a good fantasy manga");
            const answer = document.querySelector(".answer");
            return [answer.dataset.phase, answer.innerText, answer.querySelectorAll(".skeleton").length];
        }"""
    )
    assert first[0] == "instant" and "Thinking..." in first[1] and first[2] == 1
    answer = page.locator(".answer")
    expect(answer).to_have_attribute("data-phase", "complete")
    expect(answer).to_have_attribute("aria-busy", "false")
    # Recorded by the page itself: a phase may be over before a test can look.
    seen = page.evaluate("seen")
    assert list(dict.fromkeys(state.split(",")[0] for state in seen)) == ["instant", "context", "streaming", "complete"]
    assert "context,true,3,Recommendation" in seen
    assert any(state.startswith("streaming,true,") for state in seen)
    expect(answer.locator("ol > li")).to_have_count(3)
    assert answer.locator("ol strong").all_inner_texts() == answer.locator(".card strong").all_inner_texts()
    assert plain(answer_of(page)) == plain(model_text(stack, "Recommend me a good fantasy manga"))
    rows = timeline_of(page)
    events = [row["event"] for row in rows]
    assert events[:2] == ["sent", "instant"] and events[-2:] == ["done", "slowest_text"]
    assert events.count("card") == 6, "three titles as they are named, and again with their prices"
    painted = [row for row in rows if row["painted_ms"] is not None]
    assert {row["event"] for row in rows if row["painted_ms"] is None} <= {"status"}
    assert all(row["painted_ms"] >= row["received_ms"] for row in painted)
    assert all(row["animation_frames"] <= ANIMATION_FRAMES_MAX for row in painted if row["event"] != "sent")
    assert next(row for row in rows if row["event"] == "instant")["animation_frames"] <= 1
    assert sum(observed_in(page)["shifts"]) <= LAYOUT_SHIFT_MAX


def test_a_card_precedes_the_text_and_is_usable_immediately(chat_page: OpenPage, stack: Stack) -> None:
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 3, "delay_ms": 2000, "times": 1})
    page = chat_page()
    ask_in(page, "Tell me about One Piece")
    card = page.locator(".card").first
    expect(card).to_contain_text("Eiichiro Oda")
    expect(card.locator("canvas")).to_be_visible()
    expect(card.locator(".buy")).to_be_disabled()
    assert "Eiichiro Oda" not in page.locator(".prose").inner_text(), "the card precedes the text"
    card.get_by_role("button", name="Tell me more").click()
    expect(page.locator(".question")).to_have_count(2)
    expect(page.locator(".question").last).to_contain_text("Tell me about One Piece")
    wait_for_answers(page, 2)
    buy = page.locator(".card").first.get_by_role("link", name="Buy")
    address = buy.get_attribute("href")
    assert address == f"{stack.addresses['page_url']}shop/manga/m001"
    with page.context.expect_page() as opened:
        buy.click()
    opened.value.wait_for_load_state()
    assert "One Piece" in opened.value.inner_text("body")


def test_a_title_that_is_sold_out_cannot_be_bought(chat_page: OpenPage, stack: Stack) -> None:
    assert Catalogue.load(stack.settings.data_dir / "catalogue.csv").by_id["m003"].stock == 0
    page = chat_page()
    ask_in(page, "Compare Naruto and Bleach")
    wait_for_answers(page, 1)
    bleach = page.locator('.card[data-manga-id="m003"]')
    expect(bleach.locator(".buy")).to_have_text("Out of stock")
    expect(bleach.locator(".buy")).to_be_disabled()


@pytest.mark.parametrize("after_chunks", [0, 3])
def test_an_answer_is_whole_after_the_gateway_dropped_its_connection(
    chat_page: OpenPage, stack: Stack, after_chunks: int
) -> None:
    page = chat_page()
    connected(page)
    question = f"Compare Vinland Saga and Monster ({after_chunks})"
    # Held before its text or in the middle of it, so that the connection usually drops there. The text must be whole
    # wherever it dropped.
    held_after = 30 if after_chunks else 0
    stack.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": held_after, "delay_ms": 700, "times": 1})
    ask_in(page, question)
    if after_chunks:
        wait_until(page, "document.querySelector('.prose').innerText.length > 30")
    else:
        page.wait_for_selector(".answer:not([data-phase=instant])")
    dropped = stack.local("gateway", "DELETE", "connections")
    assert dropped["dropped"] >= 1
    wait_for_answers(page, 1)
    expect(page.locator(".answer")).to_have_attribute("data-phase", "complete")
    whole = chat_page()
    ask_in(whole, question)
    wait_for_answers(whole, 1)
    assert plain(answer_of(page)) == plain(answer_of(whole))
    connected(page)


def test_an_expired_sign_in_is_reported_and_the_question_is_kept(chat_page: OpenPage, stack: Stack) -> None:
    page = chat_page(f"#token={stack.token_for('late', lifetime_s=-60)}")
    expect(page.locator(".state")).to_have_attribute("data-state", "expired")
    assert "token" not in page.url
    ask_in(page, "Hello?")
    expect(page.locator(".problem")).to_contain_text("sign-in has expired")
    expect(page.locator(".question")).to_contain_text("Hello?")
    fresh = stack.token_for("late")
    page.evaluate(
        "async token => mangaChat.connect({...await (await fetch('/connect.json')).json(), token})",
        fresh,
    )
    connected(page)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer").last).to_have_attribute("data-phase", "complete")


def test_a_very_long_answer_is_whole_in_order_and_cheap_to_show(chat_page: OpenPage, stack: Stack) -> None:
    text = (
        " ".join(f"word{number}" for number in range(300)) + ".\n\n" + "\n".join(f"- item **{n}**" for n in range(60))
    )
    stack.local("bedrock", "PUT", "answer", {"text": text})
    page = chat_page()
    ask_in(page, "Say a lot, please, about everything there is in the shop")
    wait_for_answers(page, 1)
    expect(page.locator(".prose ul > li")).to_have_count(60)
    words = page.locator(".prose > p").inner_text().split()
    assert words == [*(f"word{number}" for number in range(299)), "word299."]
    rows = [row for row in timeline_of(page) if row["event"] in {"first_token", "slowest_text"}]
    assert all(row["animation_frames"] <= ANIMATION_FRAMES_MAX for row in rows)
    assert sum(observed_in(page)["shifts"]) <= LAYOUT_SHIFT_MAX
    log = page.locator(".log")
    at_end = log.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight < 2")
    assert at_end, "the last word is visible"


def test_model_output_is_plain_text_except_bold_lists_and_shop_links(chat_page: OpenPage, stack: Stack) -> None:
    shop = f"{stack.addresses['page_url']}shop/manga/m001"
    text = (
        f"Look: **bold**, [in the shop]({shop}), [elsewhere](https://evil.example/x), [script](javascript:alert(1)), "
        f"[up](http://127.0.0.1:1/shop/x) and {HOSTILE} 2 * 3 ** 4\n- one\n- two\n\n3. three\n<b>no</b>"
    )
    stack.local("bedrock", "PUT", "answer", {"text": text})
    page = chat_page()
    ask_in(page, "Markdown, please, in all of its splendour, with everything")
    wait_for_answers(page, 1)
    prose = page.locator(".prose")
    assert prose.locator("strong").all_inner_texts() == ["bold"]
    assert prose.locator("a").evaluate_all("all => all.map(a => a.href)") == [shop]
    assert prose.locator("ul li").all_inner_texts() == ["one", "two"]
    assert prose.locator("ol").get_attribute("start") == "3"
    shown = prose.inner_text()
    for as_written in (
        HOSTILE,
        "[elsewhere](https://evil.example/x)",
        "[script](javascript:alert(1))",
        "2 * 3 ** 4",
        "<b>no</b>",
    ):
        assert as_written in shown
    assert prose.locator("script, img, b").count() == 0
    assert page.evaluate("globalThis.hacked") is None


def test_hostile_titles_and_questions_are_shown_and_never_run(chat_page: OpenPage, stack: Stack) -> None:
    real = Catalogue.load(stack.settings.data_dir / "catalogue.csv").by_id["m001"]
    hostile = msgspec.structs.replace(real, title=HOSTILE, title_ja=HOSTILE, author=HOSTILE, genres=HOSTILE)
    _publish(stack, hostile)
    try:
        page = chat_page()
        ask_in(page, f"Tell me about One Piece {HOSTILE}")
        wait_for_answers(page, 1)
    finally:
        _publish(stack, real)
    assert HOSTILE in page.locator(".question").inner_text()
    assert HOSTILE in page.locator(".card").first.inner_text()
    assert page.locator(".manga-chat script, .manga-chat img").count() == 0
    assert page.evaluate("globalThis.hacked") is None


@pytest.mark.parametrize("file", ["chat.js", "page.js"])
def test_the_scripts_cannot_turn_text_into_html_or_code(stack: Stack, file: str) -> None:
    with urllib.request.urlopen(f"{stack.addresses['page_url']}{file}", timeout=5) as answer:
        script = answer.read().decode()
    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc", script
        )
        == []
    )


def _publish(stack: Stack, title: object) -> None:
    async def publish() -> None:
        redis = Redis.from_url(stack.addresses["redis_url"])
        try:
            await publish_facts(redis, [title])  # type: ignore[list-item]
        finally:
            await redis.aclose()

    # In another thread: Playwright runs a loop in this one.
    thread = threading.Thread(target=lambda: asyncio.run(publish()))
    thread.start()
    thread.join()


def test_the_chat_works_in_japanese_on_a_phone(chat_page: OpenPage, stack: Stack) -> None:
    page = chat_page(locale="ja-JP", viewport={"width": 375, "height": 667})
    expect(page.locator(".manga-chat")).to_have_attribute("lang", "ja")
    ask_in(page, "進撃の巨人について教えて")
    wait_for_answers(page, 1)
    expect(page.locator(".tag")).to_have_text("商品")
    expect(page.locator(".card strong").first).to_have_text("進撃の巨人")
    assert plain(answer_of(page)) == plain(model_text(stack, "進撃の巨人について教えて"))
    page.locator(".card").first.get_by_role("button", name="もっと詳しく").click()
    expect(page.locator(".question").last).to_contain_text("進撃の巨人について教えて")
    wait_for_answers(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the phone"
    assert sum(observed_in(page)["shifts"]) <= LAYOUT_SHIFT_MAX


def test_enter_that_ends_a_japanese_composition_does_not_send(chat_page: OpenPage) -> None:
    page = chat_page(locale="ja-JP")
    box = page.get_by_role("textbox")
    box.fill("まんが")
    box.evaluate("e => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))")
    expect(page.locator(".question")).to_have_count(0)
    box.press("Shift+Enter")
    expect(page.locator(".question")).to_have_count(0)
    box.press("Enter")
    expect(page.locator(".question")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_usable_by_keyboard_and_screen_reader(chat_page: OpenPage, scheme: str) -> None:
    page = chat_page(color_scheme=scheme, reduced_motion="reduce")
    connected(page)
    page.get_by_role("status").evaluate(
        "e => { globalThis.announced = []; const note = () => announced.push(e.textContent);"
        " new MutationObserver(note).observe(e, {childList: true}); }"
    )
    page.get_by_role("textbox").focus()
    page.keyboard.type("Compare Naruto and Bleach")
    page.keyboard.press("Enter")
    wait_for_answers(page, 1)
    announced = page.evaluate("announced")
    assert announced[0] == "Thinking..." and "Preparing your answer..." in announced
    assert announced[-1] == page.locator(".prose").text_content(), "the whole answer, once it is complete"
    reached = []
    page.locator(".log").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert "Buy" in reached[0] and "Naruto" in reached[0] and "Tell me more: Naruto" in reached
    page.get_by_role("button", name="Timeline").press("Enter")
    expect(page.locator(".timeline .over, .timeline li")).not_to_have_count(0)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_new_conversation_is_empty_and_another_session(chat_page: OpenPage) -> None:
    page = chat_page()
    ask_in(page, "Hello")
    wait_for_answers(page, 1)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".exchange")).to_have_count(0)
    ask_in(page, "Hello again")
    wait_for_answers(page, 2)
    expect(page.locator(".answer")).to_have_attribute("data-phase", "complete")


def test_a_flood_is_shown_completely_and_leaks_nothing(browser: Browser, stack: Stack) -> None:
    """500 chunks a second, faster than any model; `benchmarks/on_screen.py` measures how responsive the page stays."""
    chunks = 2000
    with flooding(per_second=500, chunks=chunks, words_per_line=400) as url:
        page = open_chat(browser, stack.addresses["page_url"], bypass_csp=True)
        page.evaluate("async url => mangaChat.connect({...await (await fetch('/connect.json')).json(), url})", url)
        page.get_by_role("button", name="New conversation").click()
        before = _memory(page)
        ask_in(page, "Flood")
        wait_for_answers(page, 1)
        assert page.locator(".prose > p").count() == 1 and page.locator(".prose br").count() == chunks // 400 - 1
        words = page.locator(".prose").inner_text().split()
        assert len(words) >= chunks - chunks // 400
        rows = [row for row in timeline_of(page) if row["event"] in {"first_token", "slowest_text"}]
        assert all(row["animation_frames"] <= ANIMATION_FRAMES_MAX for row in rows)
        page.get_by_role("button", name="New conversation").click()
        after = _memory(page)
        page.context.close()
    assert after["nodes"] - before["nodes"] < 100
    assert after["heap"] - before["heap"] < 2e6, "less than the text alone"


def _memory(page: Page) -> dict[str, float]:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {"nodes": metrics["Nodes"], "heap": metrics["JSHeapUsedSize"]}


def test_without_a_server_the_text_stays_and_the_loss_is_reported(browser: Browser, tmp_path: Path) -> None:
    with running_stack(quiet=True, **QUICK) as own:
        page = open_chat(browser, own.addresses["page_url"])
        connected(page)
        own.local("bedrock", "POST", "faults", {"kind": "stall", "after_events": 20, "times": 1})
        ask_in(page, "Tell me about One Piece")
        wait_until(page, "document.querySelector('.prose').innerText.length > 10")
        own.processes["gateway"].kill()
        expect(page.locator(".problem")).to_contain_text("connection was lost")
        expect(page.locator(".state")).to_have_attribute("data-state", "lost")
        assert len(page.locator(".prose").inner_text()) > 10
        assert timeline_of(page)[-2]["event"] == "lost"
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".problem")).to_have_count(2)
        page.context.close()


def test_the_page_serves_only_this_machine_and_no_other_site(stack: Stack) -> None:
    address = f"{stack.addresses['page_url']}connect.json"
    for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=5)
        with refused.value:
            assert refused.value.status == 403
    with urllib.request.urlopen(stack.addresses["page_url"], timeout=5) as page:
        policy = page.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy
        assert b"eyJ" not in page.read(), "no token in a cacheable file"
