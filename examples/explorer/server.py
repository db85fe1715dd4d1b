"""The server: the page, and the files that it shows, on this computer alone and out of memory."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .images import MAX_BYTES
from .visitor import Visitors

HOST = "127.0.0.1"
STYLE = Path(__file__).with_name("style.css")


def serve(port: int) -> None:
    """Serve the page at a port of the loopback interface until the process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed then, too
    with temporary_folder(), ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(2) as painters:
        app = application(Visitors(painters), worker)
        uvicorn.run(app, host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=1)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """The only folder that is written to: uploads pass through it. It is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="cutswap-explorer-") as folder:
        tempfile.tempdir = folder
        # Gradio reads these when it is imported: no telemetry, no look at a hub, no other folder.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", GRADIO_TEMP_DIR=folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = None


def application(visitors: Visitors, worker: Executor) -> FastAPI:
    """The page at /, and under /files what it shows.

    Args:
        worker: of one thread, for the updates: one after the other, so that none overtakes another.
    """
    import gradio as gr  # after the environment is set

    from .page import build_page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other name leads here

    @app.get("/files/{token}/{name}")
    async def file(token: str, name: str) -> Response:
        make = visitors.file(token, name)
        if make is None:
            raise HTTPException(404, "This picture is no longer kept. Move a control to make it again.")
        content = await asyncio.to_thread(make)
        kind = "image/jpeg" if name.endswith(".jpg") else "image/png"
        return Response(content, media_type=kind, headers={"Cache-Control": "no-store"})

    return gr.mount_gradio_app(
        app,
        build_page(visitors, worker),
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MAX_BYTES,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=STYLE,
    )
