"""Debian's chromium, driven by Selenium: pages and films as a person gets them.

    def test_...(browser):          # the fixture of conftest.py; skipped where there is none
        browser.get(page.as_uri())
        until(browser, "return document.documentElement.dataset.ready === '1'")
"""
import contextlib
import os
import re
import shutil
import time

import pytest

FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking",
         "disable-component-update", "disable-sync", "no-first-run", "disable-dev-shm-usage",
         "autoplay-policy=no-user-gesture-required", "force-device-scale-factor=1")


@contextlib.contextmanager
def chromium(folder):
    """A browser with a profile of its own in `folder`; the test is skipped where none is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here: pip install selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"user-data-dir={folder}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A proxy of the surroundings is for the outside: drivers and pages are on this machine
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
                patch.delenv(name)
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        with webdriver.Chrome(options=options, service=service) as driver:
            driver.set_script_timeout(30)
            yield driver


def address_of(process):
    """The address of the page that a script serves (commands.Process), once it says so."""
    end = time.monotonic() + 120
    while not (said := re.search(r"open (http\S+)", process.out)):
        assert process.poll() is None and time.monotonic() < end, process.wait()
        time.sleep(0.05)
    return said[1]


def until(browser, script, seconds=30, *values):
    """What a script returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(script, *values)):
        assert time.monotonic() < end, f"never came true: {script}\n{browser.get_log('browser')[-5:]}"
        time.sleep(0.05)
    return found


def resize(browser, wide, high):
    """Make the page itself so large; a window would have a least width."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": False})


def dark(browser, value=True):
    """What the page is told of the system's theme."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if value else "light"}]})


def requested(browser):
    """Addresses that the page has asked for, whatever they answered."""
    return browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
