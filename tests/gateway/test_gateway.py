"""Real gateway processes on a real Kafka: snapshots, the stream, errors, access, the end."""

import itertools
import json
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streaming.commands import load_settings
from tests.gateway.messages import HOUR_MS, alert, facts, feedback, forecast
from tests.gateway.running import Gateway, Shop, Stream, until

NUMBERS = itertools.count(1)


def step_ms() -> int:
    return int(time.time() * 1000) // HOUR_MS * HOUR_MS


def now(product: str = "p1", **changes: Any) -> Any:
    return forecast(product, step_ms=step_ms(), **changes)


def fire(product: str = "p1", **changes: Any) -> Any:
    """An alert that no test has said before."""
    return alert(product, number=next(NUMBERS), valid_until=2**45, **changes)


def known(gateway: Gateway, product: str = "p1") -> Any:
    """The product's detail, once the gateway has it."""
    until(lambda: gateway.status(f"/api/v1/products/{product}") == 200, f"{product} is known")
    return gateway.get(f"/products/{product}")


def test_snapshots_say_what_the_topics_say(gateway: Gateway, shop: Shop) -> None:
    firing_one = fire()
    shop.say(
        facts("p1", stock=236.0, stock_at=None),
        facts("p/2 ü", title="Zwei", category="toys"),
        now("p1"),
        now("p/2 ü", mean=3.0),
        firing_one,
    )
    until(lambda: len(gateway.get("/products")["items"]) == 2 and gateway.get("/overview")["alerts"], "all is known")
    overview = gateway.get("/overview")
    (firing,) = overview["alerts"]
    assert (firing["product_id"], firing["row"]["title"], firing["row"]["short"]) == ("p1", "Product p1", 307.2)
    assert overview["categories"] == ["garden", "toys"]
    detail = gateway.get("/products/p%2F2%20%C3%BC")
    assert (detail["row"]["title"], detail["forecast"]["mean"][0], detail["alerts"]) == ("Zwei", 3.0, [])
    assert [one["id"] for one in gateway.get("/products?sort=-risk&limit=1")["items"]] == ["p1"]
    assert [one["id"] for one in gateway.get("/products?q=ZWEI")["items"]] == ["p/2 ü"]
    assert gateway.get("/products?category=toys&quality=gap")["items"] == []
    page = gateway.get("/products?sort=title&limit=1")
    assert [one["title"] for one in gateway.get(f"/products?sort=title&limit=1&cursor={page['next']}")["items"]] == ["Zwei"]
    assert [one["alert_id"] for one in gateway.get("/alerts?status=firing&severity=critical&kind=spike&category=garden")["items"]] == [
        "p1-1"
    ]
    assert gateway.get("/alerts?kind=drop")["items"] == []
    assert gateway.get(f"/alerts/{firing_one.alert_id}")["observed"] == 30.0


def test_a_stream_from_a_snapshots_position_tells_all_that_came_between(gateway: Gateway, shop: Shop) -> None:
    shop.say(now(observed=1.0))
    position = known(gateway)["position"]
    fired = fire()
    shop.say(now(observed=2.0, sequence=2), fired)
    until(lambda: gateway.get("/overview")["alerts"], "the alert is known")
    stream = Stream(gateway, "?product=p1", since=position)
    first = stream.event()["data"]
    assert [one["alert_id"] for one in first["alerts"]] == [fired.alert_id]
    assert first["product"]["row"]["sold"] == 2.0
    assert {"rising", "falling", "categories", "freshness"} <= set(first["board"])
    shop.say(now(observed=3.0, sequence=3))
    assert stream.until(lambda data: data["rows"])["product"]["row"]["sold"] == 3.0
    shop.say(msgspec.structs.replace(fired, sequence=9, status="resolved", reason="recovered"))
    assert stream.until(lambda data: data["alerts"])["alerts"][0]["reason"] == "recovered"
    shop.forget("p1")
    assert stream.until(lambda data: data["rows"])["rows"] == [{"id": "p1", "gone": True}]
    stream.close()


def test_frames_come_at_least_every_two_seconds_and_at_most_twice_a_second(gateway: Gateway, shop: Shop) -> None:
    shop.say(now(), fire())
    known(gateway)
    stream = Stream(gateway)
    stream.event()
    quiet = time.monotonic()
    stream.event()
    assert time.monotonic() - quiet < 2.5
    begun = time.monotonic()
    frames = 0
    for sequence in range(2, 2_000):
        shop.say(now(sequence=sequence)) if sequence % 20 == 0 else None
        if time.monotonic() - begun > 2:
            break
    while time.monotonic() - begun < 3:
        stream.event()
        frames += 1
    stream.close()
    assert frames <= 8


def test_a_foreign_position_is_reset(gateway: Gateway) -> None:
    for since in ("1-1", "nonsense", gateway.get("/overview")["position"] + "9"):
        stream = Stream(gateway, since=since)
        assert stream.event()["event"] == "reset"
        stream.close()


def test_a_reader_that_sleeps_gets_few_old_frames_and_then_the_newest(gateway: Gateway, shop: Shop) -> None:
    shop.say(facts("p1", title="x" * 1000), now(), fire())  # large frames fill the buffers on the way sooner
    known(gateway)
    path = "/api/v1/stream?product=p1"
    with socket.socket() as asleep:
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        asleep.connect(("127.0.0.1", gateway.port.number))
        asleep.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        merged = gateway.metric("trendcast_gateway_merged_changes_total")
        deadline, sequence = time.monotonic() + 15, 1
        while time.monotonic() < deadline or sequence <= 200:
            sequence += 1
            shop.say(now(observed=float(sequence), sequence=sequence, mean=10.123456789))
            time.sleep(0.02)
        asleep.settimeout(10)
        text = ""
        while f'"sold":{float(sequence)}' not in text:
            text += asleep.recv(65536).decode()
    assert text.count("event: frame") < 26  # of 30 that an awake reader got
    until(lambda: gateway.metric("trendcast_gateway_merged_changes_total") > merged + 100, "changes were merged")


def test_an_acknowledgement_is_kept_where_every_gateway_reads_it(gateway: Gateway, shop: Shop, tmp_path: Path) -> None:
    fired = fire()
    shop.say(now(), fired, feedback(fired.alert_id, at=None))
    known(gateway)
    until(lambda: gateway.get("/overview")["alerts"], "the alert is known")
    with Gateway(shop, tmp_path) as other:
        status, said, _ = gateway.ask("PUT", f"/api/v1/alerts/{fired.alert_id}/acknowledgement", {"by": "Ada"})
        assert (status, said["acknowledged_by"]) == (200, "Ada")
        until(lambda: other.get(f"/alerts/{fired.alert_id}")["acknowledged_by"] == "Ada", "the other gateway knows")
        assert other.ask("DELETE", f"/api/v1/alerts/{fired.alert_id}/acknowledgement")[0] == 200
        until(lambda: gateway.get(f"/alerts/{fired.alert_id}")["acknowledged_at"] is None, "the first gateway knows")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/api/v1/products/nothing", None, 404, "/problems/unknown-product"),
        ("GET", "/api/v1/alerts/nothing", None, 404, "/problems/unknown-alert"),
        ("PUT", "/api/v1/alerts/nothing/acknowledgement", None, 404, "/problems/unknown-alert"),
        ("GET", "/api/v1/products?limit=501", None, 422, "/problems/validation"),
        ("GET", "/api/v1/products?sort=colour", None, 422, "/problems/validation"),
        ("GET", "/api/v1/products?cursor=x", None, 400, "/problems/unknown-cursor"),
        ("PUT", "/api/v1/alerts/x/acknowledgement", {"who": "Ada"}, 422, "/problems/validation"),
        ("POST", "/api/v1/session", {"token": "x" * 20_000}, 413, "about:blank"),
        ("GET", "/api/v1/nothing", None, 404, "about:blank"),
        ("DELETE", "/api/v1/overview", None, 405, "about:blank"),
    ],
)
def test_every_error_is_a_problem(gateway: Gateway, method: str, path: str, body: object, status: int, kind: str) -> None:
    found, problem, headers = gateway.ask(method, path, body)
    assert (found, headers["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["type"]) == (status, kind)
    assert problem["detail"]


def test_writes_come_from_our_own_pages_and_only_this_machine_is_answered(gateway: Gateway, shop: Shop) -> None:
    path = "/api/v1/alerts/none/acknowledgement"
    assert gateway.ask("PUT", path, origin="http://evil.example")[0] == 403
    assert gateway.ask("PUT", path, origin=gateway.url)[0] == 404
    assert gateway.ask("GET", "/api/v1/overview", host="evil.example")[0] == 421
    headers = gateway.ask("GET", "/")[2]
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_token_opens_by_header_or_by_a_cookie(shop: Shop, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("geheim\n")
    with Gateway(shop, tmp_path, gateway_token_file=secret, gateway_host="0.0.0.0") as guarded:
        status, problem, headers = guarded.ask("GET", "/api/v1/overview")
        assert (status, problem["type"], headers["www-authenticate"]) == (401, "/problems/signed-out", "Bearer")
        assert guarded.ask("GET", "/api/v1/stream")[0] == 401
        assert guarded.ask("GET", "/api/v1/overview", authorization="Bearer geheim")[0] == 200
        assert guarded.ask("GET", "/api/v1/overview", authorization="Bearer other")[0] == 401
        assert guarded.ask("POST", "/api/v1/session", {"token": "other"})[0] == 401
        assert guarded.ask("POST", "/api/v1/session", {"token": "geheim"}, origin="http://evil.example")[0] == 403
        status, _, headers = guarded.ask("POST", "/api/v1/session", {"token": "geheim"}, origin=guarded.url)
        assert status == 204
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "geheim" not in cookie
        assert guarded.ask("GET", "/api/v1/overview", cookie=cookie.split(";")[0])[0] == 200
        assert [guarded.status(path) for path in ("/", "/healthz", "/readyz", "/metrics")] == [200] * 4
        assert "geheim" not in guarded.log.read_text()


def test_an_open_address_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.server import run
    from streaming.errors import UserError

    monkeypatch.setenv("TRENDCAST_GATEWAY_HOST", "0.0.0.0")
    with pytest.raises(UserError, match="TRENDCAST_GATEWAY_TOKEN"):
        run(load_settings())


def test_it_ends_in_time_with_streams_open_and_reads_all_again(shop: Shop, tmp_path: Path) -> None:
    shop.say(now(), fire())
    with Gateway(shop, tmp_path) as one:
        stream = Stream(one)
        stream.event()
        begun = time.monotonic()
        one.server.stop()
        assert time.monotonic() - begun < 8
        stream.close()
        assert [json.loads(line)["event"] for line in one.log.read_text().splitlines()][-1] == "gateway.ended"
        one.start()
        assert len(one.get("/overview")["alerts"]) == 1


def test_records_of_aborted_transactions_are_not_shown_and_hold_nothing_up(kafka: str, tmp_path: Path) -> None:
    from kafka import KafkaProducer

    from streaming.contracts import encode

    shop = Shop(kafka)
    producer = KafkaProducer(bootstrap_servers=kafka, transactional_id=shop.settings.namespace)
    producer.init_transactions()
    for product, end in (("kept", producer.commit_transaction), ("dropped", producer.abort_transaction)):
        producer.begin_transaction()
        producer.send(shop.settings.forecasts_topic, key=product.encode(), value=encode(now(product)), partition=0)
        end()
    producer.close()
    with Gateway(shop, tmp_path) as one:
        assert [row["id"] for row in one.get("/products")["items"]] == ["kept"]
    shop.close()


def test_the_openapi_document_names_every_path(gateway: Gateway) -> None:
    document = gateway.ask("GET", "/openapi.json")[1]
    assert {path.removeprefix("/api/v1") for path in document["paths"]} == {
        "/overview", "/products", "/products/{product_id}", "/stream", "/alerts", "/alerts/{alert_id}", "/alerts/{alert_id}/acknowledgement",
        "/session", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
