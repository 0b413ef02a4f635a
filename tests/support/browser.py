"""A page in a headless Chromium: the one of the system, which Playwright drives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NARROW = 390  # pixels of a phone, where rows of the table are cards
MOST_TABS = 400
DRAWN = "!document.querySelector('.chart:not(:has(svg.marks))')"  # every chart of the page


class MissingBrowser(Exception):
    """No Chromium is installed; the message says how to get one."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises MissingBrowser."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise MissingBrowser("no Chromium is installed: `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        # containers have no user namespaces for the sandbox, and a small /dev/shm; pages here are our own
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class OpenedPage:
    page: Page
    context: BrowserContext
    requests: list[str] = field(default_factory=list)  # addresses; of them only the page's own is let through
    console: list[str] = field(default_factory=list)  # errors, warnings and everything else

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def press(self, selector: str, way: str) -> None:
        """Use a control by ``way``: mouse, keyboard (alone) or touch."""
        one = self.page.locator(selector)
        if way == "mouse":
            one.click()
        elif way == "touch":
            one.tap()
        else:
            self.reach(selector)
            self.page.keyboard.press("Space" if one.get_attribute("type") == "checkbox" else "Enter")

    def reach(self, selector: str) -> None:
        """Move the focus with the Tab key alone; AssertionError if it never gets there, or if nothing shows it."""
        wanted = "(selector) => document.activeElement === document.querySelector(selector)"
        for _ in range(MOST_TABS):
            if self.run(wanted, selector):
                outline = self.run("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{selector}: nothing shows that it has the focus"
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the Tab key does not get to {selector}")

    def close(self) -> None:
        self.context.close()


def open_page(browser: Browser, page: Path, width: int = 1400, dark: bool = False, touch: bool = False) -> OpenedPage:
    """``page`` with all its charts drawn, ``width`` pixels wide."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        has_touch=touch,
        is_mobile=touch,
        reduced_motion="reduce",
    )
    made = OpenedPage(context.new_page(), context)
    tab = made.page
    tab.set_default_timeout(20_000)
    tab.on("console", lambda message: made.console.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: made.console.append(f"error: {error}"))

    def ask(route: Any) -> None:
        address = route.request.url
        made.requests.append(address)
        if address == page.as_uri():
            route.continue_()
        else:
            route.abort()

    tab.route("**/*", ask)
    tab.goto(page.as_uri(), wait_until="load")
    tab.wait_for_function(DRAWN)
    return made
