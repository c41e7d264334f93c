"""Headless Chromium for tests, driven by its own DevTools protocol over a WebSocket."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START_S, STEP_S = 120.0, 60.0


class Tab:
    """One tab of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._last = socket, 0
        self.errors: list[str] = []
        """Errors that the page's scripts did not catch, and requests that its policy refused."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._last += 1
        mine = self._last
        await self._socket.send_json({"id": mine, "method": method, "params": parameters})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), STEP_S)).data)
            if message.get("id") == mine:
                assert "error" not in message, f"{method}: {message.get('error')}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message["method"] == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        if message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def wait(self, script: str, seconds: float = STEP_S) -> None:
        """Wait until a JavaScript expression is true."""
        end = asyncio.get_running_loop().time() + seconds
        while not await self.run(f"Boolean({script})"):
            text = await self.run("document.body.innerText.slice(0, 2000)")
            assert asyncio.get_running_loop().time() < end, f"never true: {script}\n{text}\n{self.errors}"
            await asyncio.sleep(0.05)

    async def key(self, key: str, *, control: bool = False) -> None:
        """Press a key as a person does."""
        code = {"Enter": 13, "Escape": 27}.get(key, ord(key.upper()) if len(key) == 1 else 0)
        press: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 if control else 0}
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **press, **({} if control else text))
        await self.call("Input.dispatchKeyEvent", type="keyUp", **press)

    async def picture(self, width: int, height: int, *, dark: bool = False) -> bytes:
        """Return a picture (PNG) of the page in a window of this size, in pixels."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[feature])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await asyncio.sleep(0.4)
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@contextmanager
def chromium(folder: Path) -> Iterator[int]:
    """Run a browser whose profile is in a folder, and yield the port of its protocol."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
    path, end = folder / "DevToolsActivePort", time.monotonic() + START_S
    with (folder / "chromium.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            while not (path.exists() and "\n" in path.read_text()):  # the browser writes it when it listens
                assert time.monotonic() < end, (folder / "chromium.log").read_text()
                time.sleep(0.05)
            yield int(path.read_text().splitlines()[0])
        finally:
            process.terminate()


@asynccontextmanager
async def tab(port: int, address: str) -> AsyncIterator[Tab]:
    """Open an address in the browser."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            pages = [one for one in await answer.json() if one["type"] == "page"]
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            opened = Tab(socket)
            for domain in ("Page", "Runtime", "Log"):
                await opened.call(f"{domain}.enable")
            await opened.call("Page.navigate", url=address)
            yield opened
