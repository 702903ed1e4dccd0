"""What holds for every request before it is looked at: whose name it calls us by, how large it is, and the headers of every answer. Plain ASGI: it must not
stand between a stream and its socket."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import own_host
from gateway.problems import answer

MAX_BODY_BYTES: Final = 16 * 1024
# Nothing but our own files, run or shown; nobody may frame them.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """`only_here`: answer only names of this machine."""

    def __init__(self, app: ASGIApp, *, only_here: bool) -> None:
        self._app, self._only_here = app, only_here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])

        async def out(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [*message.get("headers", []), *HEADERS]
                if not any(name == b"cache-control" for name, _ in told):
                    told.append((b"cache-control", b"no-cache"))
                message = {**message, "headers": told}
            await send(message)

        length = headers.get(b"content-length", b"0")
        if self._only_here and not own_host(headers.get(b"host", b"").decode("latin-1")):
            await answer(421, "without a token this gateway answers to names of this machine only")(scope, receive, out)
        elif b"transfer-encoding" in headers:
            await answer(411, "a body comes with its length")(scope, receive, out)
        elif not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await answer(413, f"more than {MAX_BODY_BYTES} bytes")(scope, receive, out)
        else:
            await self._app(scope, receive, out)
