"""A report in a real browser: one page for all tests, opened anew for each. Needs Chromium, or skips and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import MissingBrowser, OpenedPage, chromium, open_page
from confirmed_run import confirmed_run

from sweeps.report.write import write_report

Opener = Callable[..., OpenedPage]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.page)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(chromium())
        except MissingBrowser as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confirmed")
    confirmed_run(folder)
    return Path(write_report(str(folder)))


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opener]:
    """Opens the report: ``opened(width=1400, dark=False, touch=False)``. At the end of a test nothing
    that was opened has asked for another file, or has written to the console."""
    pages: list[OpenedPage] = []

    def opener(**how: Any) -> OpenedPage:
        pages.append(open_page(browser, report, **how))
        return pages[-1]

    yield opener
    for page in pages:
        page.close()
        assert page.requests == [report.as_uri()]
        assert page.console == []
