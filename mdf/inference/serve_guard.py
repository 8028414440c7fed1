"""What stands between the network and the page: no request to other hosts, no foreign pages, no other machine's name,
no guessing of passwords.

Gradio fetches `/file=http…`, `/proxy=…` and an address that a message names in the place of an uploaded file, for
whoever asks; all of them are refused here. The policy allows scripts from
strings because Gradio's own templates are made so; nothing may come from, or go to, any other host.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from mdf.inference.tries import Tries

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
        self.app, self.hosts, self.tries = app, tuple(hosts), Tries()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self.refuse(scope)
        login = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login")
        address = (scope.get("client") or ("",))[0]
        wait = self.tries.wait(address) if login and refused is None else 0
        if wait:
            self.tries.said(address, wait)
            refused = 429, f"too many wrong passwords: try again in {wait} seconds"
        if refused is None and scope["method"] == "POST" and "/upload" not in scope["path"]:
            body, receive = await whole(receive)
            if body is None:
                refused = 413, "too large"
            elif names_an_address(body):
                refused = 403, "nothing is fetched from other places"

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                kept = [(k, v) for k, v in message["headers"] if k.decode().lower() not in HEADERS]
                if "/assets/" not in scope["path"] and "/static/" not in scope["path"]:
                    kept = [(k, v) for k, v in kept if k.lower() != b"cache-control"]
                    own.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*kept, *own]}
                if login and message["status"] == 200:
                    self.tries.right(address)
            await send(message)

        if refused is None:
            return await self.app(scope, receive, with_headers)
        code, text = refused
        kind = [(b"content-type", b"text/plain; charset=utf-8")]
        kind += [(b"retry-after", str(wait).encode())] if wait else []
        await with_headers({"type": "http.response.start", "status": code, "headers": kind})
        await send({"type": "http.response.body", "body": text.encode()})

    def refuse(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason where a request is not to be answered."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        path = unquote(unquote(scope["path"])).replace("\\", "/").lower()
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower()
        if self.hosts and host not in self.hosts:
            return 403, "this machine is not called that"
        if scope["method"] == "POST" and from_elsewhere(headers):
            return 403, "only the page itself may send something"
        if any(part.replace(" ", "") in path.replace(" ", "") for part in FETCHES):
            return 403, "nothing is fetched from other places"
        if ".." in path.split("/") or "=.." in path:
            return 403, "no such file"
        return None


def from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this for another site's page, as a form there can without being asked.

    Browsers say so themselves, also through a server in front that calls this one by another name; those that do not
    (old ones, and all where neither HTTPS nor this machine is talked to) name the page's own address.
    """
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] not in ("same-origin", "none")
    if "origin" not in headers:  # no browser
        return False
    page = urlsplit(headers["origin"].lower()).netloc
    return page not in [headers[name].lower() for name in ("host", "x-forwarded-host") if name in headers]


async def whole(receive: Any) -> tuple[bytes | None, Any]:
    """The body of a message, None where it is too large, and what gives it once more."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > LARGEST_MESSAGE:
            return None, receive
    again = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay() -> Any:
        return again.pop() if again else await receive()

    return b"".join(parts), replay


def names_an_address(body: bytes) -> bool:
    """Whether a JSON message names an address of the web in the place of an uploaded file."""
    try:
        rest = [json.loads(body)]
    except ValueError:  # no JSON: Gradio takes no files from it
        return False
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and "://" in path:
                return True
            rest += value.values()
        elif isinstance(value, list):
            rest += value
    return False
