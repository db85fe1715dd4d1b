"""Which requests the server accepts, from whom, and of what size: checked before Gradio's code sees a request.

Gradio fetches a URL that is given instead of a path, answers pages of any origin, and has more endpoints than the page uses.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .images import MEGABYTE
from .uploads import STALE, Uploads
from .visitor import MAX_TOTAL

API = "/gradio_api"  # the part of Gradio beyond its static files
PREDICT, UPLOAD = f"{API}/run/predict", f"{API}/upload"  # the only endpoints that the page posts to
READ = (f"{API}/heartbeat/", f"{API}/upload_progress", f"{API}/startup-events")  # the only parts of the API that it reads
MAX_VALUES = MEGABYTE  # for the values of all controls
MAX_UPLOAD = MAX_TOTAL + MEGABYTE  # for the files that are dropped at once, with the headers between them
MAX_KEPT = 2 * MAX_TOTAL  # for all uploads that no page has taken yet
IDLE = 30  # seconds without data after which a request is aborted
# A scheme and a slash. The name of an image has no slash, so no value of a control matches.
ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:.*/", re.IGNORECASE | re.DOTALL)


class Refused(Exception):
    """The status and the reason of a request that is refused before Gradio sees it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Body:
    """The body of a request as it arrives. A client that disappears silently does not hold its place forever."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._ended = receive, False

    async def __call__(self) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), IDLE)
        except asyncio.TimeoutError:
            message = {"type": "http.disconnect"}
        self._ended = not message.get("more_body")
        return message

    async def skip(self) -> None:
        """Read to its end: a client that still writes would not see the answer."""
        while not self._ended:
            await self()


class Door:
    """Passes only requests of the page itself to the ASGI application behind it."""

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads
        self._one_upload = asyncio.Lock()  # one at a time, so that its size on disk can be counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arriving = _Body(receive)
        try:
            await self._let_in(scope, arriving, receive, send)
        except ClientDisconnect:
            pass
        except Refused as refused:
            await arriving.skip()
            await _answer(scope["path"], refused)(scope, receive, send)

    async def _let_in(self, scope: Scope, arriving: _Body, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        _check_origin(headers)
        _check_path(scope["method"], scope["path"])
        if scope["path"] == UPLOAD:
            await self._upload(headers, scope, arriving, send)
        elif scope["path"] == PREDICT:
            _check_length(headers, MAX_VALUES, "The values of the controls have")
            body = self._checked(await Request(scope, arriving).body(), headers["host"])
            # Pass on the checked JSON, not the raw body: another parser may read the body differently.
            named = [*[(k, v) for k, v in scope["headers"] if k != b"content-length"], (b"content-length", b"%d" % len(body))]
            message: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def read() -> Message:
                return next(message, None) or await receive()

            await self._app({**scope, "headers": named}, read, send)
        else:
            await self._app(scope, receive, send)

    async def _upload(self, headers: Headers, scope: Scope, arriving: _Body, send: Send) -> None:
        length = _check_length(headers, MAX_UPLOAD, "The files dropped at once have")
        async with self._one_upload:
            self._uploads.sweep(unfinished=True)
            if self._uploads.size() + length > MAX_KEPT:
                raise Refused(413, f"Other uploads have not been taken by their pages yet. Try again in {STALE} seconds.")
            try:
                await self._app(scope, arriving, send)
            finally:
                asyncio.get_running_loop().call_later(STALE + 1, self._sweep)

    def _sweep(self) -> None:
        self._uploads.sweep(unfinished=not self._one_upload.locked())

    def _checked(self, body: bytes, host: str) -> bytes:
        """The same JSON, after checking that every file is an upload and no value is a URL.

        Raises:
            Refused: one is not allowed.
        """
        try:
            values = json.loads(body)
            _check_values(values, self._uploads, f"http://{host}{API}/file=")
            return json.dumps(values).encode()
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"The values of the controls cannot be read: {str(error)[:200]}") from error


def _check_values(values: Any, uploads: Uploads, own: str) -> None:
    """No JSON value may be a URL, except that of an upload beside its path, which begins with `own`."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            rest = value
            if value.keys() & {"path", "url", "meta"}:
                if uploads.find(value.get("path")) is None or not str(value.get("url") or own).startswith(own):
                    raise Refused(403, "The file is not one that was uploaded here.")
                rest = {name: part for name, part in value.items() if name not in ("path", "url")}
            waiting += [*rest, *rest.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and ADDRESS.match(value):
            raise Refused(403, "An address is not taken here. Save the image and drop the file.")


def _check_origin(headers: Headers) -> None:
    """Refuse other pages that are open in the same browser. The host was checked before; programs send no origin."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{headers.get('host', '').lower()}":
        raise Refused(403, "Only the explorer's own page may ask for this.")


def _check_path(method: str, path: str) -> None:
    if method == "POST":
        used = path in (PREDICT, UPLOAD)
    else:
        used = method in ("GET", "HEAD") and (path.startswith(READ) or API.strip("/") not in path.split("/"))
    if not used:
        raise Refused(403, "The explorer's page does not use this.")


def _check_length(headers: Headers, most: int, what: str) -> int:
    """Bytes of the body; the server enforces this length.

    Raises:
        Refused: more than `most`, or no length.
    """
    length = headers.get("content-length", "")
    if not length.isdecimal() or "transfer-encoding" in headers:
        raise Refused(411, "A request must say how long it is (Content-Length).")
    if int(length) > most:
        raise Refused(413, f"{what} {int(length) / MEGABYTE:.0f} MB; {most // MEGABYTE} MB is the most.")
    return int(length)


def _answer(path: str, refused: Refused) -> Response:
    """The answer that the page expects: it shows the text for a refused upload, else the `error`."""
    if path == UPLOAD:
        return PlainTextResponse(str(refused), refused.status)
    return JSONResponse({"error": str(refused)}, refused.status)
