"""Pictures of a running dashboard, for the documentation: `python -m benchmarks.pictures http://127.0.0.1:8080/` while `make demo` runs."""

import argparse
import shutil
from pathlib import Path
from typing import Any, Final

from benchmarks import rig

FOLDER: Final = rig.ROOT / "docs" / "images"
WIDE: Final = {"width": 1440, "height": 900}
PHONE: Final = {"width": 390, "height": 844}


def take(browser: Any, url: str, name: str, viewport: dict[str, int], scheme: str, *, product: bool = False) -> Path:
    """One picture of the page once it is live; `product`: of the first exception's product."""
    page = browser.new_page(viewport=viewport, color_scheme=scheme, locale="en-GB", timezone_id="UTC")
    page.goto(url)
    page.wait_for_selector("body[data-conn=live] #alerts .row")
    if product:
        page.click("#alerts .t")
    if product or viewport is WIDE:
        page.wait_for_selector("#fan svg")
    page.wait_for_timeout(2_500)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    page.close()
    return path


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    url = parser.parse_args().url
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"])
        for name, viewport, scheme, product in (
            ("dashboard-light", WIDE, "light", False),
            ("dashboard-dark", WIDE, "dark", False),
            ("phone-list", PHONE, "light", False),
            ("phone-product", PHONE, "light", True),
            ("phone-product-dark", PHONE, "dark", True),
        ):
            print(take(browser, url, name, viewport, scheme, product=product))
        browser.close()


if __name__ == "__main__":
    main()
