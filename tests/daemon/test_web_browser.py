"""The web page in a real browser: what a person sees, and that nothing else is asked for."""

from collections.abc import Iterator

import pytest
from browser import browser
from daemons import KDHTCTL, DevNode, run
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from web_nodes import web_nodes

from kdht.lab.wait import wait_until

pytestmark = pytest.mark.browser

HOSTS = ("127.60.3.1", "127.60.3.2", "127.60.3.3", "127.60.3.4")
URL = f"http://{HOSTS[0]}:5380"
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DevNode]]:
    with web_nodes(tmp_path_factory.mktemp("nodes"), HOSTS, "--web", f"{HOSTS[0]}:5380") as started:
        yield started


@pytest.fixture(scope="module")
def page(nodes: list[DevNode], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """The page, its first answer drawn."""
    with browser(tmp_path_factory.mktemp("browser")) as driver:
        driver.get(URL)
        wait_until(lambda: len(driver.find_elements(By.CSS_SELECTOR, "#ring .node")) == 4, "the ring")
        yield driver


def text(page: WebDriver, selector: str) -> str:
    """Found and read in one step: the page may be drawn anew between two."""
    words: str = page.execute_script("return document.querySelector(arguments[0]).innerText", selector)
    return words


def trace(page: WebDriver, key: str) -> None:
    field = page.find_element(By.ID, "key")
    field.clear()
    field.send_keys(key)
    page.find_element(By.CSS_SELECTOR, "#trace button").click()
    wait_until(lambda: text(page, "#path-words").startswith(key), "the path")


def test_the_ring_has_every_node_and_this_one_stands_out(page: WebDriver, nodes: list[DevNode]) -> None:
    ids = [node.call("status")["node_id"] for node in nodes]
    drawn = page.find_elements(By.CSS_SELECTOR, "#ring .node")
    assert {each.get_attribute("data-id") for each in drawn} == set(ids)
    (own,) = page.find_elements(By.CSS_SELECTOR, "#ring .node.own")
    assert own.get_attribute("data-id") == ids[0]
    assert text(page, "#readiness") == "ready"
    assert text(page, "#node-id") == ids[0]
    assert len(page.find_elements(By.CSS_SELECTOR, "#nodes tbody tr")) == 4


def test_rates_are_drawn_and_move_with_the_traffic(page: WebDriver, nodes: list[DevNode]) -> None:
    def entered() -> float:
        return float(text(page, "[data-name='entered here'] b").removesuffix("/s").replace(",", ""))

    def busy() -> bool:
        for number in range(3):
            run([*KDHTCTL, "get", f"nothing {number}", "--node", nodes[0].listen])
        return entered() + float(text(page, "[data-name='gets answered'] b").removesuffix("/s")) > 0

    wait_until(busy, "a rate above 0")
    assert page.find_elements(By.CSS_SELECTOR, "#rates polyline")


def test_the_path_of_a_key_is_drawn(page: WebDriver, nodes: list[DevNode]) -> None:
    trace(page, "greeting")
    steps = page.find_elements(By.CSS_SELECTOR, "#path li")
    assert steps[0].text.startswith(nodes[0].listen)
    assert steps[-1].text.endswith("owner")
    assert len(page.find_elements(By.CSS_SELECTOR, "#ring .hop")) == len(steps) - 1
    assert len(page.find_elements(By.CSS_SELECTOR, "#ring .key")) == 1
    assert len(page.find_elements(By.CSS_SELECTOR, "#ring .node.replica")) == 3
    assert len(page.find_elements(By.CSS_SELECTOR, "#replicas tbody tr")) == 3


def test_typed_text_is_never_markup(page: WebDriver) -> None:
    trace(page, HOSTILE)
    assert HOSTILE in text(page, "#path-words")
    assert not page.find_elements(By.CSS_SELECTOR, "#path-words *")
    assert page.title.startswith("kdht ")


def test_the_page_loads_nothing_foreign(page: WebDriver) -> None:
    asked = page.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert asked
    assert all(name.startswith((URL, "data:")) for name in asked)
    complaints = [entry for entry in page.get_log("browser") if URL in entry["message"]]
    assert complaints == []


def test_the_policy_keeps_foreign_scripts_out(page: WebDriver) -> None:
    """The header is there and the browser heeds it: an inline script added to the page does not run."""
    page.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.taken = true';"
        "document.body.append(made)"
    )
    assert page.execute_script("return window.taken === undefined")
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


def test_the_page_says_that_the_node_has_ended(page: WebDriver, nodes: list[DevNode]) -> None:
    assert nodes[0].end()[0] == 0
    wait_until(lambda: "does not answer" in text(page, "#trouble"), "the page to say so")
