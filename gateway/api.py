"""The HTTP interface: snapshots, the stream, acknowledgements, the page. Everything but the page, sign-in and health needs the token, where one is set."""

import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Depends, FastAPI, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from gateway import access, frames, listing, problems
from gateway.feedback import Feedback, NotKept
from gateway.guard import Guard
from gateway.problems import Problem
from gateway.service import Service
from gateway.stream import events
from gateway.view import AlertItem
from streaming import metrics
from streaming.contracts import MAX_ID_BYTES, AlertFeedback, valid_id

STATIC: Final = Path(__file__).parent / "static"
MAX_PAGE: Final = 500

_encode: Final = msgspec.json.Encoder().encode
_Text = Annotated[str | None, Query(max_length=MAX_ID_BYTES)]
_Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


class Credentials(BaseModel):
    """What opens a session."""

    model_config = ConfigDict(extra="forbid")
    token: str = Field(min_length=1, max_length=512)


class Acknowledgement(BaseModel):
    """Who takes care of an alert."""

    model_config = ConfigDict(extra="forbid")
    by: str | None = Field(None, min_length=1, max_length=MAX_ID_BYTES, description="a name that other readers see")


def create(service: Service, feedback: Feedback, token: str | None) -> FastAPI:
    """The application. `token` None: whoever reaches it may read and write."""
    app = FastAPI(
        title="trendcast gateway", version="1", docs_url=None, redoc_url=None, description="What trendcast knows now, and what changes."
    )
    problems.install(app)
    app.add_middleware(Guard, only_here=token is None)
    may = Depends(_allowed(token))
    _add_snapshots(app, service, may)
    _add_alerts(app, service, feedback, may)
    _add_session(app, token)
    _add_health(app, service)
    _add_page(app)
    return app


def _allowed(token: str | None) -> Any:
    async def allowed(request: Request) -> None:
        if request.method not in ("GET", "HEAD") and not access.own_origin(request.headers.get("origin"), request.headers.get("host", "")):
            raise Problem(403, "writes come from the gateway's own pages only", "/problems/foreign-origin")
        if token is None or access.good_bearer(request.headers.get("authorization", ""), token):
            return
        if not access.good_session(request.cookies.get(access.COOKIE, ""), token, int(time.time())):
            raise Problem(401, "sign in with POST /api/v1/session, or send the token as a bearer token", "/problems/signed-out")

    return allowed


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def _add_snapshots(app: FastAPI, service: Service, may: Any) -> None:
    view = service.view

    def position() -> bytes:
        return b'"position":"%s"' % frames.name(service.epoch, view.position).encode()

    def known() -> None:
        if not service.complete:
            raise Problem(503, "the topics are still being read; try again in a second", "/problems/loading")

    @app.get("/api/v1/overview", dependencies=[may], tags=["snapshots"])
    async def overview(category: _Text = None) -> Response:
        """Alerts that fire, the leaderboards (of one category, where one is named), the names of categories; and the position for the stream."""
        known()
        alerts = b",".join(_encode(view.alert(alert)) for alert in view.open_alerts())
        parts = (service.about(), position(), b'"alerts":[%s]' % alerts, b'"board":%s' % service.board(category))
        return _json(b"{%s}" % b",".join((*parts, b'"categories":%s' % _encode(view.categories()))))

    @app.get("/api/v1/products", dependencies=[may], tags=["snapshots"])
    async def products(
        sort: listing.ProductOrder = "-risk",
        category: _Text = None,
        q: Annotated[str | None, Query(max_length=200)] = None,
        quality: Literal["ok", "gap", "late", "cold_start"] | None = None,
        limit: _Limit = 50,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
    ) -> Response:
        """A page of products. `q` looks in titles and ids; `next` is the cursor of the following page."""
        known()
        rows = (one.row for one in view.products.values())
        chosen = (
            row
            for row in rows
            if (category is None or row.category == category)
            and (quality is None or row.quality == quality)
            and (not q or listing.matches(row, q))
        )
        return _json(_page(listing.products, chosen, sort, limit, cursor, position()))

    @app.get("/api/v1/products/{product_id:path}", dependencies=[may], tags=["snapshots"])
    async def product(product_id: str) -> Response:
        """One product: its row, its forecast as it stands on the topic, what the stock means, its alerts."""
        known()
        body = view.detail(product_id)
        if body is None:
            raise Problem(404, "it is unknown, or was forgotten after a long silence", "/problems/unknown-product")
        return _json(b"{%s,%s,%s" % (service.about(), position(), body[1:]))

    @app.get("/api/v1/stream", dependencies=[may], tags=["stream"], response_class=StreamingResponse)
    async def stream(
        request: Request,
        product: _Text = None,
        category: _Text = None,
        since: _Text = None,
        last_event_id: Annotated[str | None, Header(max_length=MAX_ID_BYTES)] = None,
    ) -> Response:
        """Server-sent events from a snapshot's position on (`since`, or `Last-Event-ID`): `frame` says what changed since the one before, `reset` asks
        for a new snapshot. `product`: with all of this product's changes."""
        known()
        return StreamingResponse(
            events(service, product, category, last_event_id or since),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


def _page(make: Any, rows: Any, order: Any, limit: int, cursor: str | None, position: bytes) -> bytes:
    try:
        page = make(rows, order, limit, cursor)
    except listing.UnknownCursor as error:
        raise Problem(400, str(error), "/problems/unknown-cursor") from error
    return b"{%s,%s" % (position, _encode(page)[1:])


def _add_alerts(app: FastAPI, service: Service, feedback: Feedback, may: Any) -> None:
    view = service.view

    def urgency(item: AlertItem) -> listing.Place:
        known = view.products.get(item.product_id)
        return listing.urgency(item, None if known is None else known.row.risk)

    def found(alert_id: str) -> AlertItem:
        if not service.complete:
            raise Problem(503, "the topics are still being read; try again in a second", "/problems/loading")
        alert = view.alerts.get(alert_id)
        if alert is None:
            raise Problem(404, "no such alert, or it was resolved more than a day ago", "/problems/unknown-alert")
        return view.alert(alert)

    @app.get("/api/v1/alerts", dependencies=[may], tags=["alerts"])
    async def alerts(
        status: Literal["firing", "resolved"] | None = None,
        severity: Literal["warning", "critical"] | None = None,
        kind: _Text = None,
        category: _Text = None,
        limit: _Limit = 100,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
    ) -> Response:
        """A page of alerts, the most urgent first; resolved ones of the last day too."""
        if not service.complete:
            raise Problem(503, "the topics are still being read; try again in a second", "/problems/loading")
        of_product = view.products

        def wanted(item: AlertItem) -> bool:
            known = of_product.get(item.product_id)
            return (
                (status is None or item.status == status)
                and (severity is None or item.severity == severity)
                and (kind is None or item.kind == kind)
                and (category is None or (known is not None and known.row.category == category))
            )

        items = (item for item in map(view.alert, view.alerts.values()) if wanted(item))
        place = b'"position":"%s"' % frames.name(service.epoch, view.position).encode()
        return _json(_page(listing.alerts, items, urgency, limit, cursor, place))

    @app.get("/api/v1/alerts/{alert_id}", dependencies=[may], tags=["alerts"])
    async def alert(alert_id: str) -> Response:
        """One alert."""
        return _json(_encode(found(alert_id)))

    async def say(alert_id: str, by: str | None, at: int | None) -> Response:
        found(alert_id)
        before = view.feedback.get(alert_id, AlertFeedback(alert_id=alert_id))
        said = msgspec.structs.replace(before, acknowledged_by=by, acknowledged_at=at)
        try:
            await feedback.say(said, int(time.time() * 1000))
        except NotKept as error:
            raise Problem(503, f"Kafka did not take it ({error}); try again", "/problems/not-kept") from error
        return _json(_encode(said))

    @app.put("/api/v1/alerts/{alert_id}/acknowledgement", dependencies=[may], tags=["alerts"])
    async def acknowledge(alert_id: str, body: Acknowledgement | None = None) -> Response:
        """Somebody takes care of the alert. All gateways say so, as soon as they read it."""
        by = None if body is None else body.by
        if by is not None and not valid_id(by):
            raise Problem(422, "`by` is at most 128 bytes without control characters", "/problems/validation")
        return await say(alert_id, by, int(time.time() * 1000))

    @app.delete("/api/v1/alerts/{alert_id}/acknowledgement", dependencies=[may], tags=["alerts"])
    async def unacknowledge(alert_id: str) -> Response:
        """Nobody takes care of the alert, after all."""
        return await say(alert_id, None, None)


def _add_session(app: FastAPI, token: str | None) -> None:
    def own(request: Request) -> None:
        if not access.own_origin(request.headers.get("origin"), request.headers.get("host", "")):
            raise Problem(403, "writes come from the gateway's own pages only", "/problems/foreign-origin")

    @app.post("/api/v1/session", status_code=204, tags=["session"])
    async def sign_in(request: Request, credentials: Credentials) -> Response:
        """The token for a cookie, good for twelve hours."""
        own(request)
        if token is not None and not access.same(credentials.token, token):
            raise Problem(401, "that is not the token", "/problems/wrong-token")
        answer = Response(status_code=204)
        value = access.session(token or secrets.token_hex(), int(time.time()) + access.SESSION_S)
        secure = request.url.scheme == "https"
        answer.set_cookie(access.COOKIE, value, max_age=access.SESSION_S, httponly=True, samesite="strict", secure=secure)
        return answer

    @app.delete("/api/v1/session", status_code=204, tags=["session"])
    async def sign_out(request: Request) -> Response:
        """Takes the cookie back."""
        own(request)
        answer = Response(status_code=204)
        answer.delete_cookie(access.COOKIE, httponly=True, samesite="strict")
        return answer


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """200 while the process answers at all."""
        return _json(_encode({"live": True, "streams": len(service.hub.readers)}))

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """200 while the view is complete and Kafka answers."""
        conditions = service.ready()
        good = set(conditions.values()) == {"ok"}
        return Response(
            _encode({"ready": good, "conditions": conditions}), 200 if good else 503, {"cache-control": "no-store"}, "application/json"
        )

    @app.get("/metrics", tags=["health"])
    async def scraped(accept: Annotated[str, Header()] = "") -> Response:
        """For Prometheus."""
        body, content_type = metrics.render(accept)
        return Response(body, headers={"content-type": content_type})


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    @app.get("/p/{product_id:path}", include_in_schema=False)
    async def page(product_id: str = "") -> Response:
        return FileResponse(STATIC / "index.html")

    app.mount("/assets", StaticFiles(directory=STATIC), name="assets")
