"""Who may read and write: a bearer token, or a cookie that was given for it. Pure: times are arguments.

The cookie holds its own end and an HMAC over it, keyed by the token: any process of the gateway accepts it, none remembers it, and another token ends
all of them. Writes must come from the gateway's own pages (`Origin`); where no token is set, only names of this machine are answered, so that a foreign
page cannot reach a gateway by pointing a name of its own at it.
"""

import hashlib
import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

COOKIE: Final = "trendcast_session"
SESSION_S: Final = 12 * 3600


def loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> loopback("127.0.0.1"), loopback("::1"), loopback("localhost"), loopback("0.0.0.0"), loopback("example.org")
    (True, True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def session(token: str, ends_s: int) -> str:
    """A cookie's value, good until `ends_s` (epoch seconds)."""
    return f"{ends_s}.{_sign(token, ends_s)}"


def _sign(token: str, ends_s: int) -> str:
    return hmac.new(token.encode(), f"trendcast session {ends_s}".encode(), hashlib.sha256).hexdigest()


def good_session(cookie: str, token: str, now_s: int) -> bool:
    """Whether the cookie was made for this token and has not ended.

    >>> made = session("secret", 100)
    >>> good_session(made, "secret", 99), good_session(made, "secret", 100), good_session(made, "other", 99), good_session("x", "secret", 0)
    (True, False, False, False)
    """
    ends, _, signature = cookie.partition(".")
    if not (ends.isascii() and ends.isdecimal() and len(ends) < 18 and now_s < int(ends)):
        return False
    return same(signature, _sign(token, int(ends)))


def good_bearer(authorization: str, token: str) -> bool:
    """Whether the header names the token.

    >>> good_bearer("Bearer secret", "secret"), good_bearer("bearer secret", "secret"), good_bearer("Basic secret", "secret"), good_bearer("", "secret")
    (True, True, False, False)
    """
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and same(given, token)


def same(given: str, wanted: str) -> bool:
    """Equal, in a time that does not tell how far."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def own_origin(origin: str | None, host: str) -> bool:
    """Whether a write comes from a page of ours, or from no page at all. `host`: the request's own.

    >>> own_origin("http://gate:8080", "gate:8080"), own_origin(None, "gate:8080"), own_origin("http://evil", "gate:8080"), own_origin("null", "gate")
    (True, True, False, False)
    """
    return origin is None or urlsplit(origin).netloc == host


def own_host(host: str) -> bool:
    """Whether a `Host` header names this machine, with any port.

    >>> own_host("127.0.0.1:8080"), own_host("localhost"), own_host("[::1]:80"), own_host("evil.example:8080")
    (True, True, True, False)
    """
    return loopback(urlsplit(f"//{host}").hostname or "")
