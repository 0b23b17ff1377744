#!/usr/bin/env python3
"""A picture of the speed page: python bench/site_screenshot.py PAGE PICTURE.png [--dark]."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Debian's packages are chromium and chromium-driver.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"


class BrowserError(Exception):
    """A browser that cannot be started; the message says what is missing."""


def find_browser() -> tuple[str, str]:
    """The paths of the browser and its driver.

    Raises
    ------
    BrowserError
        If one of the two, or Selenium, is not there.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if browser is None or driver is None:
        raise BrowserError("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    try:
        import selenium  # noqa: F401
    except ImportError:
        raise BrowserError("needs Selenium: pip install selenium") from None
    return browser, driver


@contextlib.contextmanager
def opened(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """A browser without a window, whose page has this size; it logs the console and the network."""
    browser, driver = find_browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.add_argument("--headless=new")
    options.add_argument("--disable-gpu")
    options.add_argument("--disable-dev-shm-usage")  # containers have little of it
    options.add_argument("--hide-scrollbars")
    # Chromium's own requests would be in the log of the network too.
    options.add_argument("--disable-background-networking")
    options.add_argument("--no-first-run")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has no sandbox for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        resize(window, width, height)
        colours(window, dark)
        yield window
    finally:
        window.quit()


def resize(window: Any, width: int, height: int) -> None:
    """Give the page this size, also one narrower than windows can be."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def colours(window: Any, dark: bool) -> None:
    """Ask pages for their dark or their light colours."""
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def visit(window: Any, page: Path, fragment: str = "") -> None:
    """Open a built page, and wait until it has drawn its rows."""
    address = page.resolve().as_uri()
    # From a page to another part of itself nothing would be loaded.
    window.get("about:blank")
    window.get(f"{address}#{fragment}" if fragment else address)
    end = time.monotonic() + 30
    while not window.execute_script("return document.documentElement.dataset.shown"):
        if time.monotonic() > end:
            raise BrowserError(f"{address} shows nothing after 30 seconds")
        time.sleep(0.05)


def screenshot(window: Any, path: Path, size: tuple[int, int] | None = None) -> None:
    """Write what is seen as a PNG.

    Parameters
    ----------
    size
        None for the whole page.
    """
    if size is None:
        width = window.execute_script("return window.innerWidth")
        size = width, window.execute_script("return document.documentElement.scrollHeight")
    resize(window, *size)
    window.save_screenshot(str(path))
    try:
        from PIL import Image
    except ImportError:
        return
    with Image.open(path) as picture:
        # Chromium compresses in haste, and adds an alpha channel.
        plain = picture.convert("RGB")
    plain.save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Take a picture of a speed page.")
    parser.add_argument("page", type=Path, help="index.html that site.py wrote")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--fragment", default="", help="the view: what stands after # in a link")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--whole", action="store_true", help="all of the page, however long")
    parser.add_argument("--dark", action="store_true")
    chosen = parser.parse_args()
    size = None if chosen.whole else (chosen.width, chosen.height)
    try:
        with opened(chosen.width, chosen.height, chosen.dark) as window:
            visit(window, chosen.page, chosen.fragment)
            screenshot(window, chosen.picture, size)
            for entry in window.get_log("browser"):
                print(f"console: {entry['message']}", file=sys.stderr)
    except BrowserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
