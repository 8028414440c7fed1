"""What stands between the network and the page: no request to other hosts, no foreign pages, no other machine's name.

Gradio fetches `/file=http…` and `/proxy=…` for whoever asks; both are refused here. The policy allows scripts from
strings because Gradio's own templates are made so; nothing may come from, or go to, any other host.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
    "x-robots-tag": "noindex, nofollow",
}
FETCHES = ("file=http", "file/http", "proxy=")
LARGEST_MESSAGE = 2_000_000  # bytes of a request that is no upload


class Guard:
    """ASGI middleware. `hosts` are the names that this machine may be called by; () = any."""

    def __init__(self, app: Any, hosts: Sequence[str] = ()):
        self.app, self.hosts = app, tuple(hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self.refuse(scope)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                kept = [(k, v) for k, v in message["headers"] if k.decode().lower() not in HEADERS]
                if "/assets/" not in scope["path"] and "/static/" not in scope["path"]:
                    kept = [(k, v) for k, v in kept if k.lower() != b"cache-control"]
                    own.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        if refused is None:
            return await self.app(scope, receive, with_headers)
        code, text = refused
        kind = [(b"content-type", b"text/plain; charset=utf-8")]
        await with_headers({"type": "http.response.start", "status": code, "headers": kind})
        await send({"type": "http.response.body", "body": text.encode()})

    def refuse(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason where a request is not to be answered."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        path = unquote(unquote(scope["path"])).replace("\\", "/").lower()
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower()
        if self.hosts and host not in self.hosts:
            return 403, "this machine is not called that"
        if any(part.replace(" ", "") in path.replace(" ", "") for part in FETCHES):
            return 403, "nothing is fetched from other places"
        if ".." in path.split("/") or "=.." in path:
            return 403, "no such file"
        length = headers.get("content-length", "0")
        if "/upload" not in path and length.isdigit() and int(length) > LARGEST_MESSAGE:
            return 413, "too large"
        return None
