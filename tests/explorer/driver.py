"""The explorer as a process of its own, watched by an audit hook, and visits to it in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from playwright.sync_api import Browser, Page, Request

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# Sandboxes of their own do not start everywhere; what is tested is a page of ours.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# Written into `sitecustomize.py`: notes every connection beyond this computer and every file that is opened for writing.
WATCH = """
import os, sys
def watch(event, args):
    note = None
    if event == "socket.connect" and args[0].family in (2, 10):
        note = f"connect {args[1][0]}"
    elif event == "socket.getaddrinfo":
        note = f"look up {args[0]}"
    elif event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        note = f"write {os.path.abspath(args[0])}"
    if note and not note.startswith("write " + LOG):
        with open(LOG, "a") as log:
            log.write(note + "\\n")
LOG = os.environ["WATCH_LOG"]
sys.addaudithook(watch)
"""


class Server:
    """The running explorer; `notes` is what it did to files and to the network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "notes.txt"
        self.temporary = folder / "tmp"
        self.home = folder / "home"
        (folder / "site").mkdir()
        self.temporary.mkdir()
        self.home.mkdir()
        (folder / "site" / "sitecustomize.py").write_text(WATCH)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        given = {"HOME": self.home, "TMPDIR": self.temporary, "WATCH_LOG": self.log, "PYTHONDONTWRITEBYTECODE": 1}
        path = os.pathsep.join([str(folder / "site"), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {name: str(value) for name, value in given.items()} | {"PYTHONPATH": path}
        environment.pop("OMP_NUM_THREADS", None)
        self.errors = (folder / "errors.txt").open("w")
        command = [sys.executable, "-m", "explorer", "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=self.errors, stderr=self.errors)
        self._wait()

    def _wait(self) -> None:
        for _ in range(240):
            assert self.process.poll() is None, self.said()
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise AssertionError(self.said())

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[int, str]:
        """The status and the text of an answer; a body that is not bytes is sent as JSON."""
        json_headers = {} if body is None or isinstance(body, bytes) else {"Content-Type": "application/json"}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, {**json_headers, **headers})) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def upload(self, *files: tuple[str, bytes], headers: Mapping[str, str] = MappingProxyType({})) -> tuple[int, Any]:
        """Send files as the page does. Returns the status, and their paths or what was said."""
        parts = [
            b'--line\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
            for name, content in files
        ]
        kind = {"Content-Type": "multipart/form-data; boundary=line"}
        status, text = self.ask("/gradio_api/upload", b"".join([*parts, b"--line--\r\n"]), {**kind, **headers})
        return status, json.loads(text) if status == 200 else text

    def said(self) -> str:
        return (self.folder / "errors.txt").read_text()

    def notes(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def files(self) -> list[Path]:
        """Uploads that are still on disk, each in a folder of its own."""
        return [path for path in self.temporary.glob("*/*/*") if path.is_file()]

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        self.errors.close()


class Visit:
    """A page of its own, and everything that it asked for and complained about."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, height: int = 900) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.asked: set[object] = set()  # what is not answered yet
        self.page.on("request", self._on_request)
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, lambda request: self.asked.discard(request))
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "response", lambda answer: answer.status >= 400 and self.complaints.append(f"{answer.status} {answer.url}")
        )
        self.page.goto(url)
        self.page.wait_for_selector("#found img")
        self.settle()

    def open_controls(self) -> None:
        """Unfold the controls for experts."""
        for name, control in (("Patches", "largest"), ("Saliency and clusters", "grid")):
            self.page.get_by_role("button", name=name).click()
            self.page.locator(f"#{control} input").first.wait_for()

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)
        if any(part in request.url for part in ("/run/predict", "/upload?", "/files/")):
            self.asked.add(request)

    def settle(self) -> None:
        """Until the page has asked for nothing for a while and has all its pictures."""
        quiet = 0
        while quiet < 4:
            self.page.wait_for_timeout(60)
            quiet = 0 if self.asked else quiet + 1
        self.page.wait_for_function(
            """() => {
                const pictures = [...document.querySelectorAll('#results img')];
                return pictures.length && pictures.every((p) => p.complete && p.naturalWidth);
            }"""
        )

    def pixels(self, part: str) -> str:
        """A digest of the picture that a part of the page shows."""
        return str(
            self.page.evaluate(
                """async (part) => {
                    const picture = document.querySelector(part + ' img');
                    const canvas = document.createElement('canvas');
                    canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
                    canvas.getContext('2d').drawImage(picture, 0, 0);
                    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
                    const digest = await crypto.subtle.digest('SHA-256', data);
                    return [...new Uint8Array(digest)].join();
                }""",
                part,
            )
        )

    def shown(self) -> tuple[str, str]:
        return self.pixels("#drawn"), self.pixels("#found")

    def code(self) -> str:
        return self.page.input_value("#code textarea")

    def upload(self, *paths: Path) -> None:
        """Drop files, and wait until the first of them is shown or something is said of it."""
        before = self.page.evaluate(SHOWN)
        self.page.set_input_files("#drop input[type=file]", [str(path) for path in paths])
        self.page.wait_for_function(f"(before) => ({SHOWN})() !== before", arg=before)
        self.settle()

    def choose(self, control: str, option: str) -> None:
        """An option of a drop-down list."""
        self.page.click(f"#{control} input")
        self.page.get_by_role("option", name=option, exact=True).click()
        self.settle()

    def slide(self, control: str, value: float) -> None:
        """Move a slider and wait for what it shows."""
        self.page.evaluate(MOVE, [control, value])
        self.settle()

    def close(self) -> None:
        self.context.close()


SHOWN = "() => document.querySelector('#message').textContent + document.querySelector('#code textarea').value"
MOVE = """([control, value]) => {
    const slider = document.querySelector(`#${control} input[type=range]`);
    slider.value = value;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
}"""
