"""A headless Chromium for tests: Debian's, driven by selenium through Debian's chromedriver."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PROGRAMS = ("chromium", "chromedriver")
LOAD_SECONDS = 60


def missing() -> list[str]:
    """The programs that are not here."""
    return [program for program in PROGRAMS if which(program) is None]


@contextmanager
def browser(home: Path, width: int = 1280, height: int = 1100) -> Iterator[webdriver.Chrome]:
    """One with an empty profile in `home`; it has ended when the block does."""
    options = Options()
    options.binary_location = which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={home / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(which("chromedriver"), env={**os.environ, "HOME": str(home)})
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_page_load_timeout(LOAD_SECONDS)
        yield driver
    finally:
        driver.quit()
