"""Debian's Chromium, driven by Playwright, on a real gateway's page. Whatever a test looks at: no error in the page, no foreign request."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.gateway.conftest import gateway, lasting_shop, shop
from tests.gateway.running import Gateway

__all__ = ["gateway", "lasting_shop", "shop"]  # fixtures

Open = Callable[..., Any]
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "no chromium; `make test-system` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, gateway: Gateway) -> Iterator[Open]:
    """Opens a path in a browser context of its own; at the end none of the pages may have complained, or asked anybody else."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def heard(message: Any) -> None:
        # The browser says so itself of every answer that is an error, and of a gateway that is gone.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def asked(request: Any) -> None:
        if urlsplit(request.url).hostname != "127.0.0.1":
            complaints.append(f"asked {request.url}")

    def opened(path: str = "/", at: Gateway = gateway, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": WIDE, "locale": "en-GB", "timezone_id": "Europe/Berlin", **options})
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.add_init_script("addEventListener('securitypolicyviolation', event => console.error('policy: ' + event.violatedDirective))")
        page.goto(at.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
