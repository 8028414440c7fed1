"""What the page lets in and out: settings, headers, requests that are refused, and what is said without Gradio."""

import asyncio
import builtins
import json
import os
import sys
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.inference import serve
from mdf.inference.serve_batch import as_csv
from mdf.inference.serve_guard import HEADERS, LARGEST_MESSAGE, Guard
from mdf.inference.serve_html import download, status
from mdf.inference.upload import MAX_BYTES
from tests.scripts import run


def test_every_setting_is_the_safe_one():
    pytest.importorskip("starlette", reason="comes with the extra web")
    found = serve.launch_settings("127.0.0.1", 7860, uploads="/nowhere/uploads")
    safe = {
        "server_name": "127.0.0.1", "share": False, "allowed_paths": [], "max_file_size": MAX_BYTES,
        "enable_monitoring": False, "strict_cors": True, "ssr_mode": False, "mcp_server": False, "pwa": False,
        "run_history": False, "footer_links": [], "show_error": False, "inbrowser": False, "auth": None,
    }  # fmt: skip
    assert {name: found[name] for name in safe} == safe
    assert found["blocked_paths"] == [str(Path.home()), os.getcwd()]
    kwargs = found["app_kwargs"]
    assert kwargs["openapi_url"] is kwargs["docs_url"] is kwargs["redoc_url"] is None
    (guard,) = kwargs["middleware"]
    assert guard.cls is Guard and guard.kwargs["hosts"] == serve.LOOPBACK
    assert serve.block_settings()["analytics_enabled"] is False and serve.block_settings()["delete_cache"] == (600, 600)
    assert MAX_BYTES == 25_000_000


@pytest.mark.parametrize(
    ("home", "here", "uploads", "blocked"),
    [
        ("/home/me", "/srv/mdf", "/tmp/uploads", ["/home/me", "/srv/mdf"]),
        ("/home/me", "/", "/tmp/uploads", ["/home/me"]),  # as a service is started
        ("/home/Me", "/srv/mdf", "/home/me/tmp/uploads", ["/srv/mdf"]),  # small letters, as Gradio compares
        ("/", "/tmp", "/tmp/uploads", []),
        ("/home/me", "/tmp/upload", "/tmp/uploads", ["/home/me", "/tmp/upload"]),
    ],
)
def test_what_is_blocked_never_holds_the_uploads(monkeypatch, home, here, uploads, blocked):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(serve.os, "getcwd", lambda: here)
    assert serve.blocked_paths(uploads) == blocked


def test_gradio_takes_an_upload_below_the_working_folder(monkeypatch, tmp_path):
    allowed = pytest.importorskip("gradio.utils", reason="comes with the extra web").is_allowed_file
    monkeypatch.chdir(tmp_path)
    uploads = tmp_path / "tmp" / "uploads"
    blocked = serve.blocked_paths(str(uploads))
    assert allowed(uploads / "eye.png", blocked, [], [uploads]) == (True, "created")


def test_a_password_is_asked_for_where_others_can_reach_the_page(monkeypatch):
    pytest.importorskip("starlette", reason="comes with the extra web")
    with pytest.raises(UserError, match="give --password as well"):
        serve.check_access("0.0.0.0", None)
    with pytest.raises(UserError, match="at least 8 characters"):
        serve.check_access("127.0.0.1", "short")
    serve.check_access("0.0.0.0", "long enough")
    monkeypatch.setattr(serve, "SLOW", 0)
    opens = serve.launch_settings("0.0.0.0", 80, "long enough")["auth"]
    said = {word: asyncio.run(opens("anybody", word)) for word in ("long enough", "wrong", "lang ä", "")}
    assert said == {"long enough": True, "wrong": False, "lang ä": False, "": False}


def answer(path, hosts=serve.LOOPBACK, body=None, **headers):
    """Status and headers of a request through the guard; with `body`, in pieces, it is a POST."""
    sent, pieces = [], [] if body is None else [body[i : i + 500_000] for i in range(0, len(body), 500_000)]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def app(scope, receive, send):
        assert body is None or (await receive())["body"] == body
        start = {"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]}
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    given = [(k.replace("_", "-").encode(), v.encode()) for k, v in {"host": "127.0.0.1:7860", **headers}.items()]
    scope = {"type": "http", "method": "GET" if body is None else "POST", "path": path, "headers": given}
    asyncio.run(Guard(app, hosts)(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


def test_every_answer_has_the_headers():
    code, headers = answer("/")
    assert code == 200 and headers.items() >= HEADERS.items() and headers["cache-control"] == "no-store"
    assert answer("/", host="evil.example")[1].items() >= HEADERS.items()
    policy = headers["content-security-policy"]
    assert "http" not in policy and "*" not in policy and "connect-src 'self'" in policy


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://example.org/x", "/gradio_api/file=HTTPS://example.org", "/file=%68ttp://127.0.0.1",
        "/gradio_api/file=%2568ttp://169.254.169.254/latest", "/gradio_api/proxy=https://example.org",
        "/gradio_api/file=../../etc/passwd", "/gradio_api/file=/tmp/../etc/passwd", "/file=..\\..\\etc\\passwd",
        "/gradio_api/file/http://example.org",
    ],
)  # fmt: skip
def test_nothing_is_fetched_and_no_folder_is_left(path):
    assert answer(path)[0] == 403


def test_another_name_for_this_machine_is_refused():
    assert answer("/", host="evil.example:7860")[0] == 403  # a page that makes its own name point here
    assert answer("/", host="localhost")[0] == answer("/", host="[::1]:7860")[0] == 200
    assert answer("/", hosts=(), host="eye.example.org")[0] == 200  # served under a name, with a password


def test_a_form_on_another_page_sends_nothing():
    def sent(**headers):
        return answer("/gradio_api/upload", body=b"photograph", **headers)[0]

    assert sent() == 200  # no browser
    own, other = "http://127.0.0.1:7860", "https://evil.example"
    assert sent(origin=own) == sent(origin=own, sec_fetch_site="same-origin") == 200
    assert sent(origin=other) == sent(origin="null") == sent(origin="http://127.0.0.1:8000") == 403
    assert sent(origin=other, sec_fetch_site="cross-site") == sent(sec_fetch_site="same-site") == 403
    proxy = {"hosts": (), "host": "10.0.0.5:7860", "origin": "https://eye.example.org"}  # a server in front
    assert sent(**proxy, sec_fetch_site="same-origin") == sent(**proxy, x_forwarded_host="eye.example.org") == 200
    assert sent(**proxy) == 403
    assert answer("/", origin=other, sec_fetch_site="cross-site")[0] == 200  # a link to the page


def test_a_message_is_small_and_names_no_address_as_a_file():
    join = "/gradio_api/queue/join"
    assert answer(join, body=b"{}" + b" " * (LARGEST_MESSAGE - 2))[0] == 200
    assert answer(join, body=b"{}" + b" " * LARGEST_MESSAGE)[0] == 413
    for place in ("http://example.org/x", "HTTPS://example.org", "ftp://example.org"):
        assert answer(join, body=json.dumps({"data": [[{"path": place}]]}).encode())[0] == 403
    own = {"path": "/tmp/x/eye.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/x/eye.png"}
    assert answer(join, body=json.dumps({"data": [own, "see http://example.org"]}).encode())[0] == 200
    assert answer("/gradio_api/upload", content_length="20000000")[0] == 200  # Gradio counts these itself


def logins(*words, clients=("10.0.0.1",), clock=lambda: 0.0):
    """Status and wait of one try to log in after the other, round the clients, with the right word "sesame"."""

    async def app(scope, receive, send):
        right = (await receive())["body"] == b"sesame"
        await send({"type": "http.response.start", "status": 200 if right else 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard, said = Guard(app), []
    guard.tries.clock = clock

    async def one(word, client):
        sent = []

        async def receive():
            return {"type": "http.request", "body": word.encode(), "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/login", "headers": [], "client": (client, 5)}
        await guard(scope, receive, send)
        said.append((sent[0]["status"], int(dict(sent[0]["headers"]).get(b"retry-after", 0))))

    for number, word in enumerate(words):
        asyncio.run(one(word, clients[number % len(clients)]))
    return said


def test_who_guesses_passwords_has_to_wait_longer_and_longer(caplog):
    said = logins(*["guess"] * 6, "sesame")
    assert said == [*[(400, 0)] * 5, (429, 30), (429, 30)]  # nor does the right one help meanwhile
    assert "waits 30 s" in caplog.text and "10.0.0.1" not in caplog.text and "guess" not in caplog.text
    now = iter([0.0] * 5 + [31.0, 32.0, 92.0, 92.0, 92.0])
    said = logins(*["guess"] * 7, "sesame", *["guess"] * 2, clock=lambda: next(now))
    assert said == [*[(400, 0)] * 6, (429, 59), (200, 0), (400, 0), (400, 0)]  # the right one begins anew


def test_who_waits_keeps_nobody_else_out_unless_very_many_guess():
    two = ("10.0.0.1", "10.0.0.2")
    assert logins(*["guess", "sesame"] * 7, clients=two)[9:] == [(200, 0), (429, 30), (200, 0), (429, 30), (200, 0)]
    crowd = tuple(f"10.0.1.{i}" for i in range(101))
    said = logins(*["guess"] * 100, "sesame", clients=crowd)
    assert said[:100] == [(400, 0)] * 100 and said[100] == (429, 3600)


def test_without_gradio_the_command_to_install_it_is_said(checkpoint, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert run("serve.py", "--checkpoint", checkpoint.run) == 2
    assert "pip install 'mdf-mllm[web]'" in capsys.readouterr().err


def test_an_old_gradio_is_refused(monkeypatch):
    class Old:
        __version__ = "6.5.1"

    monkeypatch.setitem(sys.modules, "gradio", Old)
    with pytest.raises(UserError, match=r"6\.31 or newer below 7, not 6\.5\.1"):
        serve.check_gradio()
    Old.__version__ = "7.0.0"
    with pytest.raises(UserError, match="not 7"):
        serve.check_gradio()
    Old.__version__ = "6.31.0"
    serve.check_gradio()


def test_the_script_refuses_what_does_not_fit_together(checkpoint, capsys):
    for words, said in (
        (["--port", 0], "--port must be"),
        (["--idle", 0], "--idle must be above 0"),
        (["--data", "m.jsonl"], "goes with --index"),
    ):
        assert run("serve.py", "--checkpoint", checkpoint.run, *words) == 2
        assert said in capsys.readouterr().err


def test_words_of_others_are_never_markup():
    nasty = '<img src=x onerror="alert(1)">'
    assert "<img" not in status(nasty) and "<img" not in download("text", f"{nasty}.md", nasty)
    table = as_csv([("=HYPERLINK(1)", "1", "+x", "@y", "-z", "fine")])
    assert "'=HYPERLINK(1),1,'+x,'@y,'-z,fine" in table
