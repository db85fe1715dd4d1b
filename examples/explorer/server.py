"""The server: the page and its files, served from memory and only to this computer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

HOST = "127.0.0.1"
KINDS = {".jpg": "image/jpeg", ".png": "image/png", ".csv": "text/csv"}
STYLE = Path(__file__).with_name("style.css")


def serve(port: int) -> None:
    """Serve the page at a port of the loopback interface (0: any free port) until the process is terminated.

    Raises:
        OSError: the port is not available.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed then as well
    with (
        socket.create_server((HOST, port)) as listening,
        temporary_folder(),
        ThreadPoolExecutor(1) as worker,
        ThreadPoolExecutor(2) as painters,
    ):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or pictures wait 40 ms for an acknowledgment
        print(f"The explorer starts at http://{HOST}:{listening.getsockname()[1]}. Press Ctrl+C to end it.", flush=True)
        config = uvicorn.Config(application(worker, painters), log_level="warning", timeout_graceful_shutdown=1)
        _Server(config).run([listening])


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Pages that are still open have their connections cut, which is no error to report."""
        logging.getLogger("uvicorn.error").disabled = True
        await super().shutdown(sockets)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """The only folder that is written to, for uploads in transit. It is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="cutswap-explorer-") as folder:
        tempfile.tempdir = folder
        # Read when gradio, and with it matplotlib, is imported: no telemetry, no access to a hub, no other folder.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", GRADIO_TEMP_DIR=folder, MPLCONFIGDIR=folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = None


def application(worker: Executor, painters: Executor) -> FastAPI:
    """The page at /, and its files under /files.

    Args:
        worker: with one thread, for the updates: they run in order, so that none overtakes another.
        painters: for the pictures.
    """
    import gradio as gr  # these write into the temporary folder, torch already on import
    from gradio.utils import get_upload_folder

    from .door import Door
    from .guide import FILE, guide_picture
    from .page import build_page
    from .uploads import Uploads
    from .visitor import MAX_TOTAL, Visitors

    visitors, uploads = Visitors(painters), Uploads(get_upload_folder())
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Door, uploads=uploads)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other host name is accepted

    @app.get("/files/{token}/{name}")
    async def file(token: str, name: str) -> Response:
        make = visitors.file(token, name)
        if make is None:
            raise HTTPException(404, "This picture is no longer kept. Move a control to make it again.")
        content = await asyncio.to_thread(make)
        kind = KINDS.get(Path(name).suffix, "application/octet-stream")
        return Response(content, media_type=kind, headers={"Cache-Control": "no-store"})

    @app.get(f"/{FILE}")
    async def picture_of_the_guide() -> Response:
        return Response(await asyncio.to_thread(guide_picture), media_type="image/jpeg")

    page = build_page(visitors, uploads, worker)
    page.has_launched = True  # `launch` sets it, mounting does not; without it gradio accepts any path as an upload
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MAX_TOTAL,  # gradio would refuse all files for one that is too large; `images` refuses that one
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=STYLE,
    )
