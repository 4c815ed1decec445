"""The web page in a real browser: what a person sees, and that nothing else is asked for."""

import re
from collections.abc import Iterator

import pytest
from axe_core_python.selenium import Axe
from browser import browser
from daemons import KDHTCTL, DevNode, run
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from web_nodes import web_nodes

from kdht import __version__
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.browser

HOSTS = ("127.60.3.1", "127.60.3.2", "127.60.3.3", "127.60.3.4")
URL = f"http://{HOSTS[0]}:5380"
SCREEN = {"deviceScaleFactor": 1, "mobile": False}
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


def test_rates_have_a_scale_and_a_unit(page: WebDriver) -> None:
    for card in range(1, 7):
        said = text(page, f"#rates .card:nth-child({card})")
        assert re.search(r"^[\d.,]+/s\n", said)
        assert re.search(r"2 min ago\s+top: [\d.,]+/s$", said)


def test_durations_have_quantiles_of_the_histograms(page: WebDriver, nodes: list[DevNode]) -> None:
    wait_until(lambda: "PING to another node" in text(page, "#durations"), "durations")
    row = next(line for line in text(page, "#durations").splitlines() if line.startswith("PING"))
    assert re.search(r"[\d.]+ (µs|ms|s)\s+(> )?[\d.]+ (µs|ms|s)\s+\d+$", row)


def test_all_nodes_are_told_with_what_each_says_of_itself(page: WebDriver, nodes: list[DevNode]) -> None:
    wait_until(
        lambda: text(page, "#summary").startswith("4 of 4 ready"), "all nodes to say that they are ready"
    )
    table = text(page, "#nodes")
    for node in nodes:
        assert re.search(rf"{re.escape(node.listen)}.*\sready\s+{re.escape(__version__)}\s", table)


def test_reasons_are_explained_in_place(page: WebDriver) -> None:
    wait_until(
        lambda: "Control messages are the daemon's." in text(page, "#reasons"), "the meaning of CONTROL"
    )


def test_the_result_of_a_trace_is_in_view_at_1280x800(page: WebDriver) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 800, **SCREEN})
    try:
        page.execute_script("scrollTo(0, 0)")
        trace(page, "greeting")
        bottom = "return document.querySelector('#replicas tbody').getBoundingClientRect().bottom"
        wait_until(lambda: 0 < page.execute_script(bottom) <= 800, "the replicas to be in view")
        assert page.execute_script("return document.querySelector('#key').getBoundingClientRect().top") >= 0
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_axe_finds_nothing_serious(page: WebDriver, scheme: str, width: int, height: int) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, **SCREEN})
    colours = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours]})
    try:
        found = Axe().run(page)
        assert len(found["passes"]) > 15
        problems = [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found["violations"]]
        assert [each for each in problems if each[1] in ("serious", "critical")] == []
        wide = page.execute_script("return document.documentElement.scrollWidth > innerWidth")
        assert not wide, "the page itself scrolls sideways"
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_everything_is_reached_by_the_keyboard(page: WebDriver) -> None:
    page.get(URL)  # so that the first key begins at the top
    wait_until(lambda: page.find_elements(By.CSS_SELECTOR, "#reasons td"), "the page to be drawn")
    reached = []
    for _ in range(12):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(
            page.execute_script("return document.activeElement.id || document.activeElement.className")
        )
    assert reached[:3] == ["skip", "key", ""], "the link past all, the key, its button"
    assert {"cluster", "events"} <= set(reached)


def test_the_last_events_are_listed(page: WebDriver, nodes: list[DevNode]) -> None:
    nodes[3].process.kill()
    nodes[3].process.wait()
    wait_until(
        lambda: re.search(rf"died\s*{re.escape(nodes[3].listen)}", text(page, "#events")), "its death", 60
    )


def test_what_is_stale_is_grey_and_says_since_when(page: WebDriver, nodes: list[DevNode]) -> None:
    assert page.execute_script("return document.body.className") == ""
    assert nodes[0].end()[0] == 0
    wait_until(lambda: "has not answered for" in text(page, "#stale"), "the page to say so", 60)
    assert re.search(r"for [\d.]+ s: what is shown is of \d\d:\d\d:\d\d", text(page, "#stale"))
    grey = "return getComputedStyle(document.querySelector('main')).filter"
    assert page.execute_script(grey) == "grayscale(1)"
