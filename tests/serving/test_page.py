"""The served page in headless Chromium: with a keyboard alone, for screen readers, narrow, and unscripted.

``SERVE_PICTURE=RUN make test-page`` also draws docs/pictures/serve.png from a real run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import recbole_ra
from serving_runs import EVIL, REPO

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium-driver)"
    ),
]

CONTRASTS = """
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("body *")]
  .filter((node) => node.checkVisibility() && !node.disabled && !node.classList.contains("skip"))
  .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
  .map((node) => {
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), node.outerHTML.slice(0, 80)];
  });
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """What somebody does with the page."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.set_window_size(1200, 900)
        browser.get_log("browser")
        browser.get(url)
        self.wait(lambda: "items" in self.text("about"))

    def wait(self, true: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 90, 0.05).until(lambda _: true())

    def text(self, name: str) -> str:
        return str(self.browser.find_element(By.ID, name).text)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def type(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def focus(self) -> str:
        return str(self.browser.switch_to.active_element.get_attribute("id"))

    def add(self, text: str) -> None:
        """Add the first suggestion for a text, with the keyboard."""
        while self.focus() != "search":
            self.type(Keys.TAB)
        before = len(self.all("#history li"))
        self.type(text)
        self.wait(lambda: self.browser.execute_script("return options.length"))  # of all that was typed
        self.type(Keys.ARROW_DOWN, Keys.ENTER)
        self.wait(lambda: len(self.all("#history li")) == before + 1)

    def recommend(self) -> None:
        while self.focus() != "recommend":
            self.type(Keys.TAB)
        self.type(Keys.ENTER)
        self.wait(lambda: "recommendations" in self.text("status") or self.text("problem"))
        assert self.text("problem") == ""

    def ask_for(self, k: str) -> None:
        field = self.browser.find_element(By.ID, "k")
        field.clear()
        field.send_keys(k)

    def errors(self) -> list[str]:
        """What the console complains of; answers of 4xx are on purpose."""
        lines = [entry["message"] for entry in self.browser.get_log("browser")]
        return [line for line in lines if "the server responded with a status of 4" not in line]


@pytest.fixture
def page(browser: webdriver.Chrome, run: Path, serve: Callable[..., Any]) -> Page:
    return Page(browser, serve(run).started().url)


def test_with_the_keyboard_alone(page: Page, run: Path) -> None:
    for text in ("Film 2", "i3"):
        page.add(text)
    items = [node.text for node in page.all("#history li .token")]
    assert items[1] == "i3"
    page.recommend()
    recommender = recbole_ra.load(run)
    for selector, memories in (("#with", True), ("#without", False)):
        expected = recommender.recommend(histories=[items], k=10, memories=memories)["item"].tolist()
        assert [node.text for node in page.all(f"{selector} .items > li .token")] == expected
    page.type(Keys.TAB, Keys.TAB)  # clear, the first recommendation
    while page.browser.switch_to.active_element.tag_name != "summary":
        page.type(Keys.TAB)
    page.type(Keys.ENTER)
    page.wait(lambda: "memories of" in page.text("status"))
    told = recommender.explain(items)
    rows = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in page.all("#with tbody tr")
    ]
    votes, rows = ([row for row in rows if len(row) == cells] for cells in (2, 5))
    assert [float(row[1]) for row in votes] == pytest.approx(told.votes["effect"].tolist(), abs=2e-3)
    wanted = told.memories.sort_values("effect", ascending=False, kind="stable")
    assert [float(row[3]) for row in rows] == pytest.approx(wanted["effect"].tolist(), abs=2e-3)
    assert f"memories of {told.n_owners} other users; without them rank {told.rank_without}" in page.text(
        "with"
    )
    assert page.errors() == []


def test_suggestions_are_a_combobox(page: Page) -> None:
    search = page.browser.find_element(By.ID, "search")
    search.send_keys("Film")
    page.wait(lambda: search.get_attribute("aria-expanded") == "true")
    for _ in range(2):
        search.send_keys(Keys.ARROW_DOWN)
    active = search.get_attribute("aria-activedescendant")
    assert [node.get_attribute("id") for node in page.all("[aria-selected=true]")] == [active] == ["option-1"]
    search.send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
    assert search.get_attribute("aria-activedescendant") == "option-7"
    search.send_keys(Keys.ESCAPE)
    assert search.get_attribute("aria-expanded") == "false"
    assert not search.get_attribute("aria-activedescendant")
    search.send_keys(" nothing is called this")
    page.wait(lambda: "Nothing is called" in page.text("status"))


def test_enter_takes_no_suggestion_of_what_stood_there_before(page: Page) -> None:
    search = page.browser.find_element(By.ID, "search")
    search.send_keys("Film 2")
    page.wait(lambda: search.get_attribute("aria-expanded") == "true")
    page.browser.execute_script("window.fetch = () => new Promise(() => {});")  # answers that never come
    search.send_keys("4", Keys.ENTER)
    assert page.all("#history li") == []


def test_an_answer_that_comes_after_clear_is_not_shown(page: Page) -> None:
    page.add("i2")
    page.browser.execute_script(
        "const ask = window.fetch;"
        "window.fetch = (...asked) => new Promise((go) => setTimeout(go, 300)).then(() => ask(...asked));"
    )
    page.browser.find_element(By.ID, "recommend").click()
    page.browser.find_element(By.ID, "clear").click()
    time.sleep(1.5)
    assert page.text("status") == "The history is empty."
    assert not page.browser.find_element(By.ID, "with").is_displayed()


def test_removing_keeps_the_focus_where_it_was(page: Page) -> None:
    for text in ("i2", "i3", "i4"):
        page.add(text)
    page.all("#history button")[1].send_keys(Keys.ENTER)
    assert [node.text for node in page.all("#history .token")] == ["i2", "i4"]
    focus = page.browser.switch_to.active_element
    assert focus.get_attribute("aria-label") == "Remove Film 4"
    page.browser.find_element(By.ID, "clear").send_keys(Keys.ENTER)
    assert page.all("#history li") == []
    assert not page.browser.find_element(By.ID, "recommend").is_enabled()
    assert page.focus() == "search"


def test_titles_are_text_whatever_they_hold(page: Page) -> None:
    page.add("i1")
    assert page.all("#history li")[0].text.startswith(EVIL)
    page.browser.find_element(By.ID, "clear").click()
    page.add("i0")
    page.ask_for("24")
    page.recommend()
    assert any(EVIL in node.text for node in page.all("#with .items > li"))
    assert page.browser.title == "Recommendations and their memories"
    assert len(page.all("script")) == 1
    assert page.errors() == []


def test_no_script_but_its_own_runs(page: Page) -> None:
    page.browser.execute_script(
        "const s = document.createElement('script'); s.textContent = \"document.title = 'owned'\";"
        "document.body.append(s); const i = new Image(); i.src = 'http://192.0.2.1/x.png';"
    )
    assert page.browser.title == "Recommendations and their memories"
    page.wait(lambda: any("Content Security Policy" in line for line in page.errors()))


def test_every_control_has_a_name_and_changes_are_announced(page: Page) -> None:
    page.add("i2")
    page.recommend()
    for node in page.all("input, button, summary, ul[role=listbox], ol[id]"):
        if node.is_displayed():
            assert node.accessible_name, node.get_attribute("outerHTML")
    assert page.browser.find_element(By.ID, "status").get_attribute("aria-live") == "polite"
    assert page.browser.find_element(By.ID, "problem").aria_role == "alert"
    assert page.browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    levels = [int(node.tag_name[1]) for node in page.all("h1, h2, h3")]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_width(scheme: str, page: Page) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.add("i1")
        page.recommend()
        page.all("#with summary")[0].click()
        page.wait(lambda: page.all("#with tbody tr"))
        page.browser.find_element(By.ID, "search").send_keys("i")
        page.wait(lambda: page.all("#suggestions li"))
        contrasts = page.browser.execute_script(CONTRASTS)
        assert len(contrasts) > 30
        assert [found for found in contrasts if found[0] < 4.5] == []
        width = page.browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_key_is_asked_for(browser: webdriver.Chrome, run: Path, serve: Callable[..., Any]) -> None:
    page = Page(browser, serve(run, RECBOLE_RA_API_KEY="secret").started().url)
    page.browser.find_element(By.ID, "search").send_keys("i2")
    page.wait(lambda: "API key" in page.text("problem"))
    assert page.focus() == "key"
    page.type("ключ", Keys.ENTER)
    page.wait(lambda: "visible ASCII" in page.text("problem"))
    assert page.focus() == "key"
    page.type(Keys.BACKSPACE * 4, "secret", Keys.ENTER)
    page.wait(lambda: page.focus() == "search")
    page.type(Keys.BACKSPACE * 2)
    page.add("i2")
    page.recommend()
    assert page.text("problem") == ""


def test_a_mistake_and_a_server_that_is_gone_are_said(
    browser: webdriver.Chrome, run: Path, serve: Callable[..., Any]
) -> None:
    server = serve(run).started()
    page = Page(browser, server.url)
    page.add("i2")
    page.ask_for("50")
    page.browser.find_element(By.ID, "recommend").click()
    page.wait(lambda: "there are only 25 items" in page.text("problem"))
    server.ended(9)
    page.browser.find_element(By.ID, "recommend").click()
    page.wait(lambda: "does not answer" in page.text("problem"))


def test_a_model_without_memories_has_one_list(
    browser: webdriver.Chrome, trained: Callable[[str], Path], tmp_path: Path, serve: Callable[..., Any]
) -> None:
    run = Path(shutil.copytree(trained("SASRec"), tmp_path / "run"))
    page = Page(browser, serve(run).started().url)
    assert "no memories" in page.text("about")
    page.add("i2")
    page.recommend()
    assert page.text("with-title") == "Recommended"
    assert not page.browser.find_element(By.ID, "without").is_displayed()


@pytest.mark.skipif("SERVE_PICTURE" not in os.environ, reason="SERVE_PICTURE names no run to draw")
def test_draw_the_picture(browser: webdriver.Chrome, tmp_path: Path, serve: Callable[..., Any]) -> None:
    run = Path(shutil.copytree(os.environ["SERVE_PICTURE"], tmp_path / "run"))
    page = Page(browser, serve(run).started().url)
    for text in ("Star Wars", "Return of the Jedi", "Toy Story"):
        page.add(text)
    page.recommend()
    page.all("#with summary")[0].click()
    page.wait(lambda: page.all("#with tbody tr"))
    page.browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.browser.set_window_size(1200, 1250)
    page.browser.save_screenshot(str(REPO / "docs" / "pictures" / "serve.png"))
