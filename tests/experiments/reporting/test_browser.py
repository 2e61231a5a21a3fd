"""A report in Chromium: it opens without an error, sorts, filters and zooms, by mouse and keyboard, light and dark."""

import json
import shutil

import pytest

from experiments.report import main
from tests.experiments.commands import called
from tests.experiments.reporting.folders import frozen, trained

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver here")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a report of three runs open in it, 1280 pixels wide."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("browser")
    runs = [frozen(folder, "compare_decode"), frozen(folder, "serve"), trained(folder, "ppo")]
    assert called(main, *runs, "--out", folder / "page.html")[0] == 0
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.set_window_size(1280, 1000)
        driver.get((folder / "page.html").as_uri())
        yield driver
    finally:
        driver.quit()


def column(browser, number):
    """Texts of a column of the first table, as far as rows are shown."""
    script = """return [...document.querySelectorAll('.table')[0].querySelectorAll('tbody tr')]
        .filter(row => !row.hidden).map(row => row.cells[arguments[0]].textContent)"""
    return browser.execute_script(script, number)


def by_css(browser, selector):
    return browser.find_element("css selector", selector)


def test_the_first_key_skips_to_the_content(browser):
    by_css(browser, "body").send_keys("\ue004")  # tab
    assert browser.execute_script("return document.activeElement.className") == "skip"
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_heading_sorts_up_and_down_by_keyboard(browser):
    heads = browser.find_elements("css selector", ".table:first-of-type thead button")
    head = next(one for one in heads if one.text.startswith("speed-up"))
    number = heads.index(head)
    assert len(column(browser, 0)) > 2
    for order in ("ascending", "descending"):
        head.send_keys("\ue007")  # enter, on the focused button
        found = [float(text.split()[0]) for text in column(browser, number) if text != "–"]
        assert found == sorted(found, reverse=order == "descending")
        assert len(set(found)) > 1
        assert head.find_element("xpath", "..").get_attribute("aria-sort") == order


def test_a_filter_leaves_matching_rows(browser):
    before = column(browser, 0)
    box = by_css(browser, ".table input")
    box.send_keys("PAPI/ oracle")
    found = column(browser, 0)
    assert found == [name for name in before if "papi/" in name and "oracle" in name]
    assert 0 < len(found) < len(before)
    assert f"{len(found)} of {len(found)} rows shown" in by_css(browser, ".table [role=status]").text
    box.clear()
    box.send_keys("no such row")
    assert column(browser, 0) == []
    box.clear()
    box.send_keys(" ")
    assert sorted(column(browser, 0)) == sorted(before)


def test_figures_are_drawn_and_zoom(browser):
    count = len(browser.find_elements("css selector", ".figure"))
    assert count > 5
    for place in browser.find_elements("css selector", ".figure"):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
        browser.execute_async_script(
            "const [p, done] = arguments; const t = setInterval(() => { if (p.querySelector('.plot-container')) "
            "{ clearInterval(t); done(); } }, 10)",
            place,
        )
    # A zoom by the mouse: from a third to two thirds of the first figure's x axis.
    place = by_css(browser, ".figure")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    shown = "return arguments[0].layout.xaxis.range.slice()"
    low, high = browser.execute_script(shown, place)
    from selenium.webdriver import ActionChains

    drag = by_css(browser, ".figure .nsewdrag")
    width, height = drag.size["width"], drag.size["height"]
    chain = ActionChains(browser, duration=50).move_to_element_with_offset(drag, -width // 6, -height // 4)
    chain.click_and_hold().move_by_offset(width // 3, height // 2).release().perform()
    now_low, now_high = browser.execute_script(shown, place)
    assert low < now_low < now_high < high


def test_the_theme_follows_the_system_and_the_button(browser):
    back = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.querySelector('.figure').layout.font.color"
    light = (browser.execute_script(back), browser.execute_script(ink))
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    dark = (browser.execute_script(back), browser.execute_script(ink))
    assert all(a != b for a, b in zip(light, dark, strict=True))
    button = by_css(browser, "#theme")
    assert button.get_attribute("aria-pressed") == "true"
    button.send_keys("\ue007")
    assert (browser.execute_script(back), browser.execute_script(ink)) == light
    assert button.text == "Dark"


def test_a_phone_scrolls_tables_not_the_page(browser):
    sizes = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script(
        "const s = document.querySelector('.scroll'); return s.scrollWidth > s.clientWidth"
    )


def test_there_was_no_error_and_no_request(browser):
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    # Those of the page: Chromium has one of its own before.
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"].partition("#")[0] == browser.current_url.partition("#")[0]
    ]
    assert browser.current_url in asked
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
