"""Errors as RFC 9457 says them: `application/problem+json`, everywhere."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response


class Problem(Exception):
    """An answer that is an error. `type_` names the kind for programs; `about:blank`: the status says it all."""

    def __init__(self, status: int, detail: str, type_: str = "about:blank", **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.type_, self.more = status, detail, type_, more


def answer(status: int, detail: str, type_: str = "about:blank", headers: dict[str, str] | None = None, **more: Any) -> Response:
    """The response."""
    body = {"type": type_, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, media_type="application/problem+json", headers={"cache-control": "no-store", **(headers or {})})


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem."""

    async def problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        headers = {"www-authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
        return answer(error.status, error.detail, error.type_, headers, **error.more)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return answer(error.status_code, f"{request.method} {request.url.path}: {error.detail}", headers=headers)

    async def of_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # Not what was sent: it may be anything.
        errors = [{"field": ".".join(map(str, one["loc"])), "detail": one["msg"]} for one in error.errors()]
        return answer(422, "the request is not as the interface says", "/problems/validation", errors=errors)

    async def of_program(_: Request, error: Exception) -> Response:
        return answer(500, "the gateway failed to answer; its log says why")

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, of_program)
