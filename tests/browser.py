"""A page opened in headless Chromium over the DevTools protocol, its console and its network watched."""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Page:
    driver: webdriver.Chrome
    seen: list[dict] = field(default_factory=list)

    def run(self, script, *arguments):
        return self.driver.execute_script(f"return (() => {{ {script} }})()", *arguments)

    def click(self, selector, text=None):
        """A real click at the middle of the first match, or of the first with this text."""
        found = [
            e for e in self.driver.find_elements("css selector", selector) if text is None or e.text.strip() == text
        ]
        found[0].click()

    def hover(self, x, y):
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def console(self):
        return self.driver.get_log("browser")

    def requests(self):
        """Addresses that the page asked for, its own file apart."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        asked = [
            one["request"]["url"] for one in sent if one["documentURL"].startswith("file:")
        ]  # not the browser's own
        assert asked, "the page's own file is among what is watched"
        return [url for url in asked if not url.startswith(("file:", "data:"))]


@contextmanager
def opened(path: Path, profile: Path, width: int, height: int = 900, dark: bool = False):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        page = Page(driver)
        driver.get(path.resolve().as_uri())
        yield page
    finally:
        driver.quit()


def is_missing() -> bool:
    """Whether there is no browser; in CI there has to be one."""
    return "CI" not in os.environ and not (shutil.which("chromium") and shutil.which("chromedriver"))


needs_browser = pytest.mark.skipif(is_missing(), reason="no chromium or chromedriver is installed")
