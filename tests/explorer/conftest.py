"""One server for all tests, and visits without complaints of the browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driver import CHROMIUM, FLAGS, Server, Visit
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """A visit without complaints of the browser, with all controls unfolded."""
    made = Visit(browser, server.url)
    made.open_controls()
    yield made
    made.close()
    assert made.complaints == []
