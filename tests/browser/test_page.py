"""The dashboard in a real Chromium, on a real gateway and a real Kafka."""

import itertools
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streaming.contracts import TrendAlert
from tests.browser.conftest import PHONE, Open
from tests.gateway.messages import HOUR_MS, alert, facts, forecast
from tests.gateway.running import Gateway, Shop, until

pytestmark = pytest.mark.system

NUMBERS = itertools.count(1)
SEQUENCES = itertools.count(1)
# How often, and when, the page has painted live data.
COUNT_PAINTS = """() => { window.paints = []; new MutationObserver(() => window.paints.push(performance.now()))
  .observe(document.body, { attributeFilter: ['data-painted'] }); }"""


def now(product: str = "p1", **changes: Any) -> Any:
    """A newer forecast of the hour that runs."""
    step_ms = int(time.time() * 1000) // HOUR_MS * HOUR_MS
    return forecast(product, **({"step_ms": step_ms, "sequence": next(SEQUENCES)} | changes))


def fire(product: str = "p1", **changes: Any) -> TrendAlert:
    """An alert that began ten minutes ago."""
    starts_at = int(time.time() * 1000) - 600_000
    return alert(product, **({"number": next(NUMBERS), "valid_until": 2**45, "starts_at": starts_at} | changes))


def resolved(fired: TrendAlert) -> TrendAlert:
    return msgspec.structs.replace(fired, status="resolved", reason="recovered", sequence=fired.sequence + 1, ends_at=fired.updated_at)


def filled(shop: Shop, products: int = 12) -> list[TrendAlert]:
    """A shop with some alerts of both severities, an acknowledged stock, movers."""
    fired = []
    for i in range(products):
        name = f"p{i:02}"
        stock = None if i % 4 == 3 else 100.0 * i
        category = ("garden", "toys")[i % 2]
        shop.say(facts(name, title=f"Product {i}, {'very ' * (i % 4)}long", category=category, stock=stock, stock_at=None))
        shop.say(now(name, mean=10.0 + i, observed=(2.0 * i if i % 3 else 0.0)))
        if i % 2 == 0:
            fired.append(fire(name, severity="critical" if i % 4 else "warning", kind="spike" if i % 3 else "drop"))
            shop.say(fired[-1])
    return fired


def live(page: Any) -> None:
    page.wait_for_selector("body[data-conn=live]")


def rows(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all("#alerts .row", "rows => rows.map(row => row.dataset.alert)")
    return found


def text_of(page: Any, selector: str, wanted: str) -> None:
    page.wait_for_function("([selector, wanted]) => document.querySelector(selector)?.textContent.includes(wanted)", arg=[selector, wanted])


# ---- live


def test_what_is_said_is_painted_and_a_resolve_removes_its_row(shop: Shop, open_page: Open) -> None:
    fired = fire()
    shop.say(facts(stock=236.0, stock_at=None), now(observed=4.0), fired)
    page = open_page()
    text_of(page, "#p-meta", "4 sold this hour")
    text_of(page, "#alerts", "▲\u2009×3.0")
    text_of(page, "#p-answer", "Short by 240 to 307 over the 48 h lead time.")
    text_of(page, "#drivers", "people who looked")
    assert page.locator("#t-risk").text_content() == "1,536"
    shop.say(now(observed=9.0))
    text_of(page, "#p-meta", "9 sold this hour")
    shop.say(resolved(fired))
    page.wait_for_function("() => !document.querySelector('#alerts .row')")
    text_of(page, "#empty", "Nothing needs you")


def test_what_changes_between_snapshot_and_stream_is_not_missed(shop: Shop, gateway: Gateway, open_page: Open) -> None:
    shop.say(now(observed=1.0), fire())
    until(lambda: gateway.get("/overview")["alerts"], "the alert is known")
    page = open_page("/nothing-here")
    late = fire("p2")

    def held(route: Any) -> None:  # the stream is asked for only after more has happened
        if not held_back:
            held_back.append(1)
            shop.say(now(observed=7.0), now("p2"), late)
            until(lambda: gateway.get("/alerts?status=firing")["items"][1:], "the second alert is known")
        route.continue_()

    held_back: list[int] = []
    page.route("**/api/v1/stream*", held)
    page.goto(gateway.url + "/p/p1")
    text_of(page, "#p-meta", "7 sold this hour")
    page.wait_for_selector(f'[data-alert="{late.alert_id}"]')
    assert held_back


def test_a_killed_gateway_comes_back_to_the_same_page(shop: Shop, open_page: Open, tmp_path: Path) -> None:
    filled(shop)
    with Gateway(shop, tmp_path) as own:
        page = open_page("/p/p04", own)
        live(page)
        page.click("[data-filter=drop]")
        page.evaluate("() => { window.same = true; }")
        own.server.kill()
        page.wait_for_selector("body[data-conn=down]")
        text_of(page, "#banner", "You see the numbers of")
        text_of(page, "#banner", "Trying again in")
        assert "Nothing needs you" not in page.locator("#exceptions").inner_text()
        shop.say(now("p04", observed=77.0))
        own.start()  # another process: the page's position says nothing to it
        live(page)
        text_of(page, "#p-meta", "77 sold this hour")
        assert page.evaluate("() => window.same")
        assert page.get_attribute("[data-filter=drop]", "aria-pressed") == "true"
        assert own.metric("trendcast_gateway_resets_total") >= 1
        assert page.locator("#banner").is_hidden()


def test_at_most_two_paints_a_second(shop: Shop, open_page: Open) -> None:
    shop.say(now(), fire())
    page = open_page()
    live(page)
    page.evaluate(COUNT_PAINTS)

    def painted() -> bool:
        shop.say(now(observed=float(next(SEQUENCES))))
        return bool(page.evaluate("() => window.paints.length >= 10"))

    until(painted, "ten paints")
    paints = page.evaluate("() => window.paints")
    assert (len(paints) - 1) / (paints[-1] - paints[0]) < 2.05 / 1_000


def test_a_hidden_tab_disconnects_and_catches_up(shop: Shop, gateway: Gateway, open_page: Open) -> None:
    shop.say(now(observed=1.0), fire())
    page = open_page("/p/p1")
    live(page)
    hide = """hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange')); }"""
    page.evaluate(hide, True)
    until(lambda: gateway.metric("trendcast_gateway_open_streams") == 0, "no stream is open")
    shop.say(now(observed=8.0))
    page.evaluate(hide, False)
    text_of(page, "#p-meta", "8 sold this hour")


def test_pause_holds_the_page_still_and_goes_on_where_it_was(shop: Shop, gateway: Gateway, open_page: Open) -> None:
    shop.say(now(observed=1.0), fire())
    page = open_page("/p/p1")
    text_of(page, "#p-meta", "1 sold this hour")
    page.keyboard.press("Space")
    page.wait_for_selector("body[data-conn=paused]")
    shop.say(now(observed=6.0))
    until(lambda: gateway.get("/products/p1")["row"]["sold"] == 6.0, "the gateway knows")
    page.wait_for_timeout(700)
    assert "1 sold this hour" in page.locator("#p-meta").text_content()
    page.click("#pause")
    text_of(page, "#p-meta", "6 sold this hour")


# ---- states


def test_silence_is_told_after_eight_seconds(shop: Shop, open_page: Open, tmp_path: Path) -> None:
    shop.say(now())
    with Gateway(shop, tmp_path) as own:
        page = open_page("/", own)
        live(page)
        own.pause()
        try:
            page.wait_for_selector("body[data-conn=stale]")
            text_of(page, "#banner", "Nothing was heard for")
            assert "Nothing needs you" not in page.locator("#exceptions").inner_text()
        finally:
            own.go_on()
        live(page)


def test_forecasts_that_nobody_renews_are_stale(kafka: str, open_page: Open, tmp_path: Path) -> None:
    shop = Shop(kafka)
    shop.say(now(valid_until=int(time.time() * 1000) - 1))
    with Gateway(shop, tmp_path) as own:
        page = open_page("/p/p1", own)
        page.wait_for_selector("body[data-conn=stale]")
        text_of(page, "#banner", "not being renewed")
        text_of(page, "#p-tags", "Not renewed")
    shop.close()


def test_a_gap_is_a_grey_span_and_a_broken_line_and_never_zero(shop: Shop, open_page: Open) -> None:
    good = now(quality="gap")
    demand: list[float | None] = [10.0] * 72
    demand[40:46] = [None] * 6
    shop.say(msgspec.structs.replace(good, recent=msgspec.structs.replace(good.recent, demand=demand)))
    page = open_page("/p/p1")
    page.wait_for_selector("#fan .gap")
    assert page.locator("#fan .gap").count() == 1
    path = page.get_attribute("#fan .sold", "d")
    assert path.count("M") == 2
    heights = {part.split(",")[1] for part in path.replace("M", "L").split("L") if part}
    assert len(heights) == 1
    text_of(page, "#p-tags", "Gap in the data")


def test_a_new_product_an_unknown_one_and_one_that_was_forgotten(shop: Shop, open_page: Open) -> None:
    shop.say(now(quality="cold_start"))
    page = open_page("/p/p1")
    text_of(page, "#p-tags", "New product")
    text_of(page, "#p-answer", "Stock is not known.")
    shop.forget("p1")
    text_of(page, "#product", "This product was forgotten")
    shop.say(now())
    text_of(page, "#p-title", "p1")
    other = open_page("/p/nothing")
    text_of(other, "#product", "nothing is unknown")


def test_without_the_token_there_is_a_door_and_nothing_else(shop: Shop, open_page: Open, tmp_path: Path) -> None:
    shop.say(now(), fire())
    with Gateway(shop, tmp_path, gateway_token="geheim") as guarded:
        page = open_page("/p/p1", guarded)
        page.wait_for_selector("#signin:not([hidden])")
        assert page.locator("main").is_hidden()
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        text_of(page, "#wrong", "That is not the token.")
        page.fill("#token", "geheim")
        page.keyboard.press("Enter")
        live(page)
        text_of(page, "#p-title", "p1")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.click(".ack")
        text_of(page, ".row .ack", "Undo")
        page.click(".ack")
        text_of(page, ".row .ack", "Ack")


# ---- people


def test_rows_never_move_under_the_pointer(shop: Shop, open_page: Open) -> None:
    fired = filled(shop)
    page = open_page()
    page.wait_for_function("n => document.querySelectorAll('#alerts .row').length === n", arg=len(fired))
    before = rows(page)
    page.hover(f'[data-alert="{before[2]}"]')
    new = fire("p01", severity="critical")
    shop.say(new, resolved(next(one for one in fired if one.alert_id == before[0])))
    text_of(page, "#more", "1 new")
    page.wait_for_selector(f'[data-alert="{before[0]}"].ended')
    assert rows(page) == before
    page.mouse.move(1_000, 500)
    page.wait_for_function("id => document.querySelector(`[data-alert='${id}']`)", arg=new.alert_id)
    assert before[0] not in rows(page)
    page.keyboard.press("Tab")


def test_replayed_alerts_are_never_announced_and_others_once_in_ten_seconds(shop: Shop, open_page: Open) -> None:
    shop.say(facts("p1", title="First"), facts("p2", title="Second"), now("p1"), now("p2"), now("p3"))
    page = open_page()
    live(page)
    page.evaluate("""() => { window.said = []; new MutationObserver(() => { const text = document.getElementById('say').textContent;
        if (text.includes('xception')) window.said.push([performance.now(), text]); }).observe(document.getElementById('say'), { childList: true }); }""")
    shop.say(fire("p1", replay=True), fire("p2"))
    page.wait_for_function("() => document.querySelectorAll('#alerts .row').length === 2")
    text_of(page, "#say", "New exception: Second")
    shop.say(fire("p3"), fire("p3", kind="drop"))
    text_of(page, "#say", "2 new exceptions")
    (first, _), (second, _) = page.evaluate("() => window.said")
    assert second - first > 9_000
    assert "First" not in str(page.evaluate("() => window.said"))


def test_all_of_it_by_keyboard(shop: Shop, open_page: Open) -> None:
    filled(shop)
    page = open_page()
    live(page)
    first = page.locator("#p-title").text_content()
    page.keyboard.press("j")
    page.wait_for_function("before => document.getElementById('p-title')?.textContent !== before", arg=first)
    page.keyboard.press("k")
    text_of(page, "#p-title", first)
    page.keyboard.press("a")
    page.wait_for_selector(".row.selected.acknowledged")
    page.keyboard.press("/")
    page.keyboard.type("Product 5")
    page.wait_for_selector("#found li[data-product]")
    page.keyboard.press("Enter")
    text_of(page, "#p-title", "Product 5")
    page.focus("#fan")
    page.keyboard.press("ArrowRight")
    text_of(page, "#readout", "median")
    page.keyboard.press("ArrowLeft")
    text_of(page, "#readout", "sold so far")
    page.keyboard.press("ArrowLeft")
    text_of(page, "#readout", "sold 15")
    page.keyboard.press("t")
    assert page.get_attribute("html", "data-theme") == "light"
    page.keyboard.press("Escape")
    page.wait_for_function("() => location.pathname === '/'")
    # What Tab reaches first, and that everything it reaches can be seen.
    page.evaluate("() => document.activeElement.blur()")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "() => { const e = document.activeElement; return [e.id || e.className || e.tagName, e.matches(':focus-visible')]; }"
            )
        )
    assert [name for name, seen in reached if not seen and name != "BODY"] == []  # the body: the browser's own turn
    assert {"q", "category", "pause", "theme"} <= {name for name, _ in reached}


def test_movers_of_products_and_of_categories(shop: Shop, open_page: Open) -> None:
    from tests.gateway.messages import of_category

    step_ms = int(time.time() * 1000) // HOUR_MS * HOUR_MS
    for i in range(6):
        shop.say(facts(f"g{i}", category="garden"), now(f"g{i}", mean=20.0, observed=30.0))
        shop.say(facts(f"t{i}", category="toys"), now(f"t{i}", mean=20.0, observed=0.0))
    shop.say(of_category("garden", mean=120.0, step_ms=step_ms), of_category("toys", mean=120.0, step_ms=step_ms))
    page = open_page()
    text_of(page, "#rising", "Product g0")
    text_of(page, "#rising", "+133 %")
    text_of(page, "#falling", "−67 %")
    assert "% sure" in page.get_attribute("#rising .row", "title")
    page.click("[data-board=categories]")
    text_of(page, "#rising", "garden")
    text_of(page, "#falling", "toys")
    page.click("#falling [data-category=toys]")
    page.wait_for_function("() => document.getElementById('category').value === 'toys'")
    page.wait_for_function("() => !document.querySelector('#rising a') && document.querySelectorAll('#falling a').length === 6")
    shop.forget("level/category/garden")
    shop.forget("level/category/toys")


def test_hostile_texts_stay_texts(shop: Shop, open_page: Open) -> None:
    evil = "<img src=x onerror=alert(1)>"
    name = "p\"'><script>alert(2)</script>"
    shop.say(facts(name, title=evil, category="</option><b>x"), now(name), fire(name, title=evil, runbook="javascript:alert(3)"))
    page = open_page()
    dialogs: list[str] = []

    def dismissed(dialog: Any) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismissed)
    text_of(page, "#alerts", evil)
    page.click("#alerts .t")
    text_of(page, "#p-title", evil)
    page.fill("#q", "<img")
    text_of(page, "#found", evil)
    assert page.locator("main img, main script, main b b").count() == 0
    assert dialogs == []


# ---- eyes


@pytest.mark.parametrize(("scheme", "viewport"), [("light", None), ("dark", None), ("light", PHONE), ("dark", PHONE)])
def test_axe_finds_nothing(shop: Shop, open_page: Open, scheme: str, viewport: Any) -> None:
    import axe_playwright_python

    filled(shop)
    options = {} if viewport is None else {"viewport": viewport}
    page = open_page(color_scheme=scheme, bypass_csp=True, **options)
    live(page)
    page.wait_for_selector("#alerts .row")
    page.add_script_tag(path=str(Path(axe_playwright_python.__file__).parent / "axe.min.js"))
    looked = []
    for path in ("", "/p/p02"):
        if path:
            page.click("#alerts .t")
            page.wait_for_selector("#fan svg")
            page.evaluate("() => { const numbers = document.getElementById('numbers'); numbers.open = true; }")
        found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
        looked += [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
    assert looked == []


def test_nothing_scrolls_sideways_on_a_phone(shop: Shop, open_page: Open) -> None:
    filled(shop)
    page = open_page(viewport=PHONE, has_touch=True)
    live(page)
    wide = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide)
    page.wait_for_selector("#alerts .row")
    assert page.locator("#product").is_hidden()
    page.tap("#alerts .t")
    page.wait_for_selector("#fan svg")
    assert page.locator("#exceptions").is_hidden()
    assert not page.evaluate(wide)
    page.tap(".back")
    page.wait_for_selector("#exceptions:visible")


def test_the_day_of_a_clock_change_has_each_hour_once(kafka: str, open_page: Open, tmp_path: Path) -> None:
    change_ms = 1_761_440_400_000  # 2025-10-26 01:00 UTC: 03:00 becomes 02:00 in Berlin
    shop = Shop(kafka)
    shop.say(forecast(step_ms=change_ms - 12 * HOUR_MS, lead=48))
    with Gateway(shop, tmp_path, clock="log") as own:
        page = open_page("/p/p1", own)
        page.wait_for_selector("#fan .tick")
        page.select_option("#range", "24")
        ticks = page.eval_on_selector_all("#fan .tick", "ticks => ticks.map(tick => [+tick.getAttribute('x'), tick.textContent])")
        labels = [label for _, label in ticks]
        assert all(before < after for (before, _), (after, _) in itertools.pairwise(ticks))
        assert [label for label in labels if ":" in label] == ["06:00", "12:00", "18:00"] * (len(labels) // 4) or labels.count(
            "Sun 26"
        ) == 1
        assert len(set(labels)) + labels.count("06:00") + labels.count("12:00") + labels.count("18:00") - 3 == len(labels)
        gaps = [round(after - before) for (before, _), (after, _) in itertools.pairwise(ticks)]
        assert max(gaps) > min(gaps)  # the night has an hour more
    shop.close()


def test_forced_colours_keep_every_line(shop: Shop, open_page: Open) -> None:
    filled(shop)
    page = open_page("/p/p02", forced_colors="active")
    page.wait_for_selector("#fan svg")
    style = "selector => { const style = getComputedStyle(document.querySelector(selector)); return [style.stroke, style.fill]; }"
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    for selector, which in ((".plot .sold", 0), (".plot .median", 0), (".plot .run", 1), (".plot .band90", 1), (".spark path", 0)):
        colour = page.evaluate(style, selector)[which]
        assert colour not in ("none", background), selector
