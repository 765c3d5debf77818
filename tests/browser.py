"""A tab of headless Chromium, driven as a person would."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Browser:
    """A tab of headless Chromium, by its debugging protocol. `complaints`: errors of its console."""

    password = ""
    """What it answers where name and password are asked for"""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = profile / "DevToolsActivePort"
        wait(lambda: port.is_file() and port.read_text().count("\n") >= 1, 120)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list", timeout=60) as answer:
            (tab,) = [one for one in json.load(answer) if one["type"] == "page"]
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None))
        self.number, self.complaints = 0, list[str]()
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            told = json.loads(self.socket.recv(120))
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(told["params"]))
            self._asked(told)
            if told.get("id") == self.number:
                assert "error" not in told, told
                return told["result"]

    def _asked(self, told: dict[str, Any]) -> None:
        """Lets requests go, and gives name and password where they are asked for."""
        if told.get("method") not in ("Fetch.requestPaused", "Fetch.authRequired"):
            return
        params: dict[str, Any] = {"requestId": told["params"]["requestId"]}
        method = "Fetch.continueRequest"
        if told["method"] == "Fetch.authRequired":
            method = "Fetch.continueWithAuth"
            params["authChallengeResponse"] = {
                "response": "ProvideCredentials",
                "username": "me",
                "password": self.password,
            }
        self.socket.send(json.dumps({"id": 0, "method": method, "params": params}))

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, awaitPromise=True)["result"].get("value")

    def shows(self, script: str) -> None:
        """Waits until a script says true."""
        wait(lambda: self.run(script) is True, 120)

    def type(self, text: str, field: str = "words") -> None:
        self.run(f"document.getElementById('{field}').focus()")
        for character in text:
            self.call("Input.insertText", text=character)

    def press(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def fonts(self, selector: str) -> dict[str, bool]:
        """The families that draw the text of the first such element -> whether they came with the page."""
        self.call("CSS.enable")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        found = self.call("CSS.getPlatformFontsForNode", nodeId=node)["fonts"]
        return {one["familyName"]: one["isCustomFont"] for one in found}

    def choose(self, file: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def close(self) -> None:
        self._open.close()
        self.process.kill()  # asked to end, it takes ten seconds
        self.process.wait(60)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()
