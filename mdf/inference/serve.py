"""The web page on one checkpoint: what it is made of, and the settings with which it is safe to serve.

Only this machine can reach it unless another host and a password are given; nothing is fetched from, or sent to, any
other machine; what a visitor brings is removed when the visit ends.
"""

import asyncio
import hmac
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.inference import serve_batch, serve_cases, serve_chat, serve_report
from mdf.inference import serve_html as page
from mdf.inference.serve_guard import Guard
from mdf.inference.serve_room import Room
from mdf.inference.session import describe_point, describe_sampling
from mdf.inference.upload import MAX_BYTES, MAX_PIXELS
from mdf.resources import DATA
from mdf.vocabulary import display

log = logging.getLogger("mdf.serve")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SLOW = 1.0  # seconds that a wrong password takes
KEYS = "Tab moves on, Enter asks, Shift+Enter begins a line, Alt+1 to Alt+5 choose a tab, Escape stops an answer."


def check_gradio() -> None:
    """Raise UserError where the extra `web` is not installed, or too old to be safe."""
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs the extra `web`: pip install 'mdf-mllm[web]'") from None
    found = tuple(int(part) for part in gradio.__version__.split(".")[:2] if part.isdigit())
    if not (6, 31) <= found < (7, 0):
        raise UserError(
            f"the page needs gradio 6.31 or newer below 7, not {gradio.__version__}: pip install 'mdf-mllm[web]'"
        )


def check_access(host: str, password: str | None) -> None:
    """Raise UserError where others could reach the page without a password."""
    if host not in LOOPBACK and not password:
        raise UserError(f"--host {host} lets other machines reach the page: give --password as well")
    if password is not None and len(password) < 8:
        raise UserError("the password needs at least 8 characters")


def door(password: str) -> Callable[[str, str], Awaitable[bool]]:
    """Whether a password is right, whoever says it; a wrong one takes its time, and nobody else's."""

    async def opens(name: str, given: str) -> bool:
        if hmac.compare_digest(given.encode(), password.encode()):
            return True
        await asyncio.sleep(SLOW)
        log.warning("a wrong password")
        return False

    return opens


def block_settings() -> dict[str, Any]:
    """Arguments of `gr.Blocks`."""
    return {"title": "mdf", "analytics_enabled": False, "delete_cache": (600, 600), "fill_width": True}


def blocked_paths(uploads: str) -> list[str]:
    """Home and the working folder, which Gradio then never serves from; not where they hold the folder of uploads,
    since it would refuse every upload as well.
    """

    def spelt(path: str) -> set[Path]:  # Gradio makes the letters small before it follows links
        small = Path(path.lower())
        return {small, small.resolve(), Path(str(Path(path).resolve()).lower())}

    def holds_uploads(folder: str) -> bool:
        return any(one.is_relative_to(other) for one in spelt(uploads) for other in spelt(folder))

    return [folder for folder in (str(Path.home()), os.getcwd()) if not holds_uploads(folder)]


def launch_settings(host: str, port: int, password: str | None = None, *, uploads: str = "") -> dict[str, Any]:
    """Arguments of `launch`: what Gradio offers beyond the page itself is off. `uploads` is the folder of uploads."""
    from starlette.middleware import Middleware

    hosts = LOOPBACK if host in LOOPBACK else ()
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "auth": None if password is None else door(password),
        "auth_message": page.BANNER,
        "allowed_paths": [],
        "blocked_paths": blocked_paths(uploads or tempfile.gettempdir()),
        "max_file_size": MAX_BYTES,
        "enable_monitoring": False,
        "strict_cors": True,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "run_history": False,
        "footer_links": [],
        "show_error": False,
        "quiet": True,
        "inbrowser": False,
        "prevent_thread_lock": True,
        "state_session_capacity": 256,
        "app_kwargs": {
            "docs_url": None, "redoc_url": None, "openapi_url": None, "middleware": [Middleware(Guard, hosts=hosts)],
        },
    }  # fmt: skip


def about(room: Room) -> str:
    """What answers here, in a few lines."""
    predictor = room.predictor
    masks = ", ".join(name.replace("_", " ") for name in predictor.model.config.masks) or "none"
    lines = [
        f"Checkpoint {predictor.name}, on {predictor.model.device}; masks: {masks}.",
        f"Diagnoses it can name: {', '.join(map(display, predictor.processor.diagnoses))}.",
        *describe_point(predictor.operating_point),
        describe_sampling(room.visits.sampling),
        f"Photographs: at most {MAX_BYTES / 1e6:.0f} MB and {MAX_PIXELS / 1e6:.0f} million pixels each; written anew "
        "without their metadata, kept while the page is open, removed when it is closed or after "
        f"{room.visits.idle / 60:.0f} minutes without use.",
        "One photograph shows the posterior pole. It cannot show retinal thickness, eye pressure, visual fields or "
        "change over time, and a normal one does not rule out disease.",
        KEYS,
    ]
    return f'<div class="mdf-about">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>'


def build(room: Room) -> Any:
    """The page as Gradio's Blocks."""
    import gradio as gr

    with gr.Blocks(**block_settings()) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML(page.banner(), elem_id="banner", scale=8)
            theme = gr.Button("Dark / light", elem_id="theme", size="sm", scale=0, min_width=110)
        line = gr.HTML(page.status(), elem_id="status")
        with gr.Row(elem_id="room"):
            with gr.Column(scale=2, min_width=300, elem_id="left"):
                tab, chat = serve_chat.build(room, line)
            with gr.Column(scale=5, min_width=320, elem_id="right"), gr.Tabs(elem_id="tabs"):
                with gr.Tab("Chat"):
                    tab()
                with gr.Tab("Report"):
                    serve_report.build(room, line)
                with gr.Tab("Similar cases"):
                    serve_cases.build(room, line)
                with gr.Tab("Many photographs"):
                    serve_batch.build(room, line)
                with gr.Tab("About"):
                    gr.HTML(about(room))
        theme.click(None, js="() => { document.body.classList.toggle('dark'); }", api_visibility="private")

        def leave(request: gr.Request) -> None:
            chat.leave(request)

        blocks.unload(leave)
    blocks.queue(max_size=128, api_open=False)
    return blocks


def look() -> dict[str, Any]:
    """How the page looks; its fonts are the system's, so that none is fetched."""
    import gradio as gr

    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    folder = DATA / "serve"
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=system, font_mono=mono)
    contrast = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    contrast |= {f"{name}_dark": value for name, value in contrast.items()}
    return {
        "theme": theme.set(**contrast),
        "css": (folder / "serve.css").read_text(encoding="utf-8"),
        "head": f"<script>{(folder / 'serve.js').read_text(encoding='utf-8')}</script>",
    }


def serve(
    room: Room, host: str, port: int, password: str | None = None, *, until: threading.Event | None = None
) -> None:
    """Serve the page until interrupted, or until `until` is set; then remove all that visitors brought."""
    check_gradio()
    check_access(host, password)
    temporary = tempfile.mkdtemp(prefix="mdf-uploads-")
    os.environ |= {"GRADIO_TEMP_DIR": temporary, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    blocks = build(room)
    try:
        try:
            _, address, _ = blocks.launch(**launch_settings(host, port, password, uploads=temporary), **look())
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: {error}") from None
        print(f"{page.BANNER}\n\nThe page is at {address} (Ctrl-C ends it)", flush=True)
        until = until or threading.Event()
        while not until.wait(30):
            room.visits.sweep()
    finally:
        blocks.close()
        room.visits.close()
        shutil.rmtree(temporary, ignore_errors=True)
