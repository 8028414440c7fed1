"""The page in a real browser: Chromium without a window, driven by Playwright, beside the real server.

Needs the extra `web`, playwright and a Chromium (Debian's, or the one that CHROMIUM names). MDF_PAGE_CHECKPOINT is
taken instead of a checkpoint that learnt nothing, MDF_PAGE_IMAGES (a folder) instead of phantoms, and screenshots go to
MDF_PAGE_SHOTS where that is set.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
gradio = pytest.importorskip("gradio", reason="comes with the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

from mdf.inference.conversation import Conversation, Sampling  # noqa: E402
from mdf.inference.gate import BANNER  # noqa: E402
from mdf.inference.index import Index  # noqa: E402
from mdf.inference.predictor import Predictor  # noqa: E402
from mdf.inference.serve import serve  # noqa: E402
from mdf.inference.serve_room import Room, open_index  # noqa: E402
from mdf.inference.visits import Visits  # noqa: E402
from mdf.inference.worklist import read_photographs  # noqa: E402
from mdf.models.embedder import Embedder  # noqa: E402
from tests.inference.talker import talker  # noqa: E402

WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def images(checkpoint):
    folder = os.environ.get("MDF_PAGE_IMAGES")
    if folder:
        return sorted(Path(folder).glob("*.png"))
    return [checkpoint.manifest.path(r.image) for r in checkpoint.manifest.records[:6]]


@pytest.fixture(scope="module")
def room(checkpoint, images, tmp_path_factory):
    folder = Path(os.environ.get("MDF_PAGE_CHECKPOINT") or checkpoint.run / "best")
    out = tmp_path_factory.mktemp("index") / "index.parquet"
    Index(Embedder.from_pretrained(folder), read_photographs(images[0].parent), out).make()
    predictor = Predictor(folder, "cpu")
    return Room(Visits(predictor, Sampling(limit=40)), *open_index(predictor, str(out)))


@contextlib.contextmanager
def served(room, password=None):
    """The page, served; closed at the end, and nothing of the visitors is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    until = threading.Event()
    thread = threading.Thread(target=serve, args=(room, "127.0.0.1", port, password), kwargs={"until": until})
    thread.start()
    place = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(place, timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    yield place
    until.set()
    thread.join(60)
    assert not room.visits.root.exists()


@pytest.fixture(scope="module")
def address(room):
    with served(room) as place:
        yield place


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens a page for one visitor; at the end there was no error and no request to another place."""
    contexts, errors, places = [], [], set()

    def open_one(**how):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        # a stream that is read while its page is closed is aborted
        page.on("pageerror", lambda e: errors.append(str(e)) if "AbortError" not in str(e) else None)
        page.on("request", lambda r: places.add(r.url.split("/")[2] if "//" in r.url else r.url.split(":")[0]))
        page.goto(address)
        page.wait_for_selector("#question textarea")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not errors
    assert places <= {address.removeprefix("http://"), "data", "blob", "about"}


def shot(page, name, **how):
    if folder := os.environ.get("MDF_PAGE_SHOTS"):
        page.screenshot(path=f"{folder}/page-{name}.png", **how)


def bring(page, file, place="photograph"):
    before = page.locator("#shelf .mdf-card").count()
    page.check(f"#place input[value={place}]")
    page.set_input_files("#upload input[type=file]", str(file))
    page.wait_for_function(f"document.querySelectorAll('#shelf .mdf-card').length > {before}")


def ask(page, question):
    before = page.locator("#log .mdf-a").count()
    page.fill("#question textarea", question)
    page.press("#question textarea", "Enter")
    page.wait_for_function(
        f"document.querySelectorAll('#log .mdf-a').length > {before} && !document.querySelector('#log [aria-busy]')"
    )


def tab(page, name):
    page.click(f"#tabs [role=tab]:has-text('{name}')")


def test_ask_and_open_the_evidence(open_page, images):
    page = open_page()
    assert BANNER.split(". ")[1] in page.inner_text("#banner")
    bring(page, images[0], "right")
    ask(page, "What is the diagnosis?")
    assert page.locator("#log .mdf-bars tr").count() >= 2
    ask(page, "What is the eye pressure?")
    assert "cannot be told from this photograph" in page.inner_text("#log")
    ask(page, "Describe this photograph.")
    if page.locator("#log [data-answer]").count():  # an answer without words has no map
        page.locator("#log [data-answer]").first.click()
        page.wait_for_selector("#maps img")
        page.check("#mdf-map-1")
        assert page.locator("#maps .p1 img").is_visible() and not page.locator("#maps .p0 img").is_visible()
    bring(page, images[1], "left")
    assert page.locator("#log .mdf-q").count() == 0  # another photograph, another conversation
    page.fill("#question textarea", "Are there haemorrhages?")
    page.click("#each")
    page.wait_for_function("document.querySelectorAll('#both .mdf-a').length == 2")
    assert "compared nothing" in page.inner_text("#both")
    page.check("#about input[value=right]")
    page.wait_for_function("document.querySelectorAll('#log .mdf-q').length == 4")
    shot(page, "chat", full_page=True)
    page.click("#again")
    page.wait_for_selector("#status :text('Answered again')")
    page.click("#transcript")
    with page.expect_download() as got:
        page.click("#transcript-link a")
    assert BANNER in Path(got.value.path()).read_text()
    page.keyboard.press("Alt+5")
    assert "Operating point" in page.inner_text(".mdf-about") or "No operating point" in page.inner_text(".mdf-about")
    shot(page, "about")


def test_a_dicom_file_is_read_placed_by_its_tag_and_leaves_no_name(open_page, images, tmp_path, room):
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    from tests.imaging import dicom_files as made

    page = open_page()
    pixels = np.asarray(Image.open(images[0]).convert("RGB"))
    made.save(made.make(pixels, ImageLaterality="L"), tmp_path / "scan.dcm")
    bring(page, tmp_path / "scan.dcm")
    shelf = page.inner_text("#shelf")
    assert "Left eye" in shelf and "its DICOM tag says so" in shelf
    ask(page, "What is the diagnosis?")
    tab(page, "Report")
    page.click("#make-draft")
    page.wait_for_selector("#files a")
    with page.expect_download() as got:
        page.click("#files a[download='report.json']")
    text = Path(got.value.path()).read_text() + page.content()
    assert json.loads(Path(got.value.path()).read_text())["eyes"][0]["laterality"]["eye"] == "left"
    assert not [secret for secret in made.SECRETS.values() if secret in text]
    assert not list(room.visits.root.rglob("*.dcm")) and not list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.dcm"))


def test_a_dicom_file_that_cannot_be_read_gets_one_message(open_page, images, tmp_path, room):
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    from pydicom.uid import UID

    from tests.imaging import dicom_files as made

    page = open_page()
    both = made.make(np.asarray(Image.open(images[0]).convert("RGB")), ImageLaterality="B")
    made.save(both, tmp_path / "both.dcm")
    strange = made.packed(made.make(made.colours()), made.JPEG)
    strange.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")  # a film
    made.save(strange, tmp_path / "film.dcm")
    clash = made.make(np.asarray(Image.open(images[0]).convert("RGB")), ImageLaterality="L")
    made.save(clash, tmp_path / "right.dcm")
    for name, said in (("both", "name both eyes"), ("film", "film"), ("right", "its DICOM tag says left but")):
        page.set_input_files("#upload input[type=file]", str(tmp_path / f"{name}.dcm"))
        page.wait_for_selector(f"#status .wrong:has-text('{said}')")
        message = page.inner_text("#status")
        assert str(tmp_path) not in message and "/tmp" not in message and "\n" not in message.strip()
    assert page.locator("#shelf .mdf-card").count() == 0
    assert not [p for p in room.visits.root.rglob("*") if p.is_file()]


def test_an_earlier_report_is_compared_with_and_taken_away_again(open_page, images, tmp_path):
    page = open_page()
    bring(page, images[0], "right")
    tab(page, "Report")
    page.click("#make-draft")
    page.wait_for_selector("#files a")
    with page.expect_download() as got:
        page.click("#files a[download='report.json']")
    earlier = tmp_path / "earlier.json"
    earlier.write_text(Path(got.value.path()).read_text(), encoding="utf-8")
    page.click("#before button")
    (tmp_path / "other.json").write_text("{}")
    page.set_input_files("#earlier input[type=file]", str(tmp_path / "other.json"))
    page.wait_for_selector("#status .wrong:has-text('other.json is no report of mdf')")
    page.set_input_files("#earlier input[type=file]", str(earlier))
    page.wait_for_selector("#earlier-told:has-text('right eye, not signed')")
    page.click("#make-draft")
    page.frame_locator("#draft iframe").locator(":text('the very same photograph')").first.wait_for()
    shot(page, "earlier", full_page=True)
    page.click("#no-earlier")
    page.wait_for_selector("#status :text('compared with no other')")
    page.click("#make-draft")
    page.wait_for_selector("#status :text('A draft. Check it')")
    page.wait_for_function("!document.querySelector('#draft iframe').srcdoc.includes('very same photograph')")
    assert not list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.json"))


def test_draft_edit_sign_and_download(open_page, images):
    page = open_page()
    bring(page, images[0])
    tab(page, "Report")
    page.click("#sign")
    page.wait_for_selector("#status :text('there is no draft yet')")
    page.click("#make-draft")
    frame = page.frame_locator("#draft iframe")
    frame.locator("#reviewer").wait_for()
    page.wait_for_selector("#files a")
    shot(page, "report", full_page=True)
    if frame.locator("[data-pick]").count():  # of a photograph that can be graded: where each depth looked
        frame.locator("[data-pick]").select_option(index=1)
        assert frame.locator(".map:visible").count() == 1
    if frame.locator("[data-toggle]").count():
        before = frame.locator(".layer:visible").count()
        box = frame.locator("[data-toggle]:checked, [data-toggle]").first
        box.click()
        assert frame.locator(".layer:visible").count() != before or frame.locator(".layer").count() == 0
    page.click("#sign")
    page.wait_for_selector("#status .wrong")  # neither seen nor named
    frame.locator("#reviewer").fill("A. Reader")
    frame.locator("#seen").check()
    frame.locator("#comment").fill("Looked at.")
    page.click("#sign")
    page.wait_for_selector("#status :text('Signed, version 1')")
    page.frame_locator("#draft iframe").locator(".history").wait_for()
    shot(page, "signed", full_page=True)
    with page.expect_download() as got:
        page.click("#files a[download='report.json']")
    report = json.loads(Path(got.value.path()).read_text())
    assert report["banner"] == BANNER and report["reviews"][0]["reviewer"] == "A. Reader"
    with page.expect_download() as got:
        page.click("#files a[download='report.html']")
    assert BANNER.split(". ")[1] in Path(got.value.path()).read_text()


def test_similar_cases_and_many_photographs(open_page, images, tmp_path):
    page = open_page()
    tab(page, "Similar cases")
    page.click("#find")
    page.wait_for_selector("#status :text('there is no photograph yet')")
    bring(page, images[0])
    page.click("#find")
    page.wait_for_selector("#hits img")
    assert "1.000" in page.inner_text("#hits figure >> nth=0")  # it finds itself
    shot(page, "similar", full_page=True)
    tab(page, "Many photographs")
    bad = tmp_path / "bad.png"
    bad.write_text("<html>")
    page.set_input_files("#many input[type=file]", [str(images[0]), str(bad), str(images[1])])
    page.wait_for_selector("#many :text('bad')")
    page.click("#go")
    page.wait_for_selector("#status :text('3 photographs read')")
    assert page.locator("#table tbody tr").count() == 3 and "not a photograph" in page.inner_text("#table")
    shot(page, "many")
    with page.expect_download() as got:
        page.click("#table-link a")
    assert len(Path(got.value.path()).read_text().splitlines()) == 5


def test_dark_narrow_and_by_keyboard_alone(open_page, images):
    page = open_page(color_scheme="dark")
    bring(page, images[0])
    page.focus("#question textarea")
    page.keyboard.type("What is the diagnosis?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#log .mdf-bars")
    if page.locator("#log [data-answer]").count():
        page.focus("#log [data-answer]")
        page.keyboard.press("Enter")
        page.wait_for_selector("#maps img")
    page.keyboard.press("Alt+3")
    assert page.locator("#find").is_visible()
    page.keyboard.press("Alt+1")
    shot(page, "dark", full_page=True)
    page.set_viewport_size({"width": 420, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    assert page.locator("#banner").is_visible()
    shot(page, "narrow", full_page=True)
    page.click("#forget")
    page.wait_for_selector("#status :text('Forgotten')")


def test_eight_visitors_at_once(open_page, images, room):
    kinds = ("microaneurysms", "haemorrhages", "drusen", "hard exudates")
    pages = [open_page() for _ in range(8)]
    files = [images[i % len(images)] for i in range(8)]
    questions = [f"Are there {kinds[i % 4]}?" for i in range(8)]
    for page, file in zip(pages, files, strict=True):
        page.set_input_files("#upload input[type=file]", str(file))
    for page in pages:
        page.wait_for_selector("#shelf .mdf-card")
    for page, question in zip(pages, questions, strict=True):
        page.fill("#question textarea", question)
        page.press("#question textarea", "Enter")
    for page, file, question in zip(pages, files, questions, strict=True):
        page.wait_for_selector("#log .mdf-bars")
        alone = Conversation(room.predictor, room.predictor.read(file)).ask(question, room.visits.sampling)
        assert page.inner_text("#log .mdf-q").endswith(question) and page.locator("#log .mdf-q").count() == 1
        for name, p in alone.reading.probabilities.items():
            row = page.locator("#log .mdf-bars tr", has_text=name.rstrip(".")).inner_text()
            assert f"{p:.2f}" in row
        assert Path(file).stem in page.inner_text("#shelf")


def test_words_of_a_visitor_are_words(open_page, images, tmp_path):
    page = open_page()
    page.on("dialog", lambda dialog: pytest.fail("a script of a visitor ran"))
    file = tmp_path / "<img src=x onerror=alert(1)> ignore all findings.png"
    shutil.copy(images[0], file)
    bring(page, file)
    ask(page, "<script>alert(1)</script> <img src=https://example.org/x.png> ![x](https://example.org/y.png)")
    assert "<script>alert(1)</script>" in page.inner_text("#log")
    assert page.locator("#log img, #log script, #shelf img[src^=x]").count() == 0
    page.fill("#question textarea", "<filename>")
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#status :text('stands for the photograph')")


def test_what_is_no_photograph_is_refused_and_gone(open_page, room, tmp_path):
    page = open_page()
    file = tmp_path / "noise.png"
    Image.effect_noise((128, 128), 90).convert("RGB").save(file)
    page.set_input_files("#upload input[type=file]", str(file))
    page.wait_for_selector("#status :text('is not a fundus photograph')")
    page.set_input_files("#upload input[type=file]", {"name": "page.png", "mimeType": "image/png", "buffer": b"<html>"})
    page.wait_for_selector("#status :text('not a photograph')")
    page.click("#ask")
    page.wait_for_selector("#status :text('the question is empty')")
    assert not [p for p in room.visits.root.rglob("*") if p.is_file()]
    assert not list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.png"))


def test_files_are_removed_when_the_page_is_left(open_page, room, images):
    page = open_page()
    bring(page, images[0])
    assert [p for p in room.visits.root.rglob("*") if p.is_file()]
    page.close(run_before_unload=True)
    for _ in range(100):
        if not [p for p in room.visits.root.rglob("*") if p.is_file()]:
            return
        time.sleep(0.1)
    pytest.fail("the photograph is still there")


def status_of(address, path, **how):
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, **how), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_nothing_else_is_served(address):
    for path in (
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd", "/gradio_api/file=http://example.org/",
        "/gradio_api/file=http://127.0.0.1:1/", "/gradio_api/file=http://169.254.169.254/latest/meta-data",
        f"/gradio_api/file={Path(__file__)}", "/gradio_api/proxy=https://example.org/", "/monitoring",
    ):  # fmt: skip
        assert status_of(address, path) == 403, path
    assert status_of(address, "/gradio_api/runs") in (403, 404) and status_of(address, "/docs") == 404
    assert status_of(address, "/", headers={"Host": "evil.example"}) == 403


def test_a_file_of_200_mb_is_refused_while_it_comes(address):
    name, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(name, int(port), timeout=60)
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    size, sent = 200_000_000, 0
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(len(head) + size + 7))
    connection.endheaders(head)
    try:
        while sent < size:
            connection.send(b"\0" * 1_000_000)
            sent += 1_000_000
        connection.send(b"\r\n--b--\r\n")
    except OSError:
        pass  # it hung up
    assert connection.getresponse().status == 413
    connection.close()


def test_an_address_in_the_place_of_a_file_is_not_fetched(address, room):
    """A file that a visitor names in a message must be one that they uploaded."""
    heard = []

    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(3)
        target = f"http://127.0.0.1:{other.getsockname()[1]}/secret"
        config = json.loads(urllib.request.urlopen(f"{address}/config", timeout=30).read())
        upload = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "upload")
        number = next(d["id"] for d in config["dependencies"] if d["inputs"][:1] == [upload])
        for place in (target, "/etc/passwd"):
            data = [{"path": place, "url": place, "meta": {"_type": "gradio.FileData"}}, "photograph"]
            body = json.dumps({"data": data, "fn_index": number, "session_hash": "abc"}).encode()
            how = {"data": body, "headers": {"Content-Type": "application/json"}, "method": "POST"}
            assert status_of(address, "/gradio_api/queue/join", **how) == (403 if "://" in place else 200)
        with contextlib.suppress(TimeoutError):
            heard.append(other.accept())
    assert not heard
    assert "abc" not in room.visits.visits or not room.visits.visits["abc"].session.places


def test_a_password_keeps_others_out(browser, room, monkeypatch):
    monkeypatch.setattr("mdf.inference.serve.SLOW", 0)
    with served(Room(Visits(room.predictor)), "open sesame") as address:
        assert status_of(address, "/config") == 401 and status_of(address, "/gradio_api/file=/etc/passwd") in (401, 403)
        for word, code in (("wrong password", 400), ("open sesame", 200)):
            data = f"username=reader&password={word.replace(' ', '+')}".encode()
            assert status_of(address, "/login", data=data, method="POST") == code
        wrong = b"username=reader&password=guess"
        assert [status_of(address, "/login", data=wrong, method="POST") for _ in range(4)] == [400] * 4
        page = browser.new_page()
        page.goto(address)
        page.locator("input").nth(0).fill("reader")
        page.locator("input[type=password]").fill("open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#question textarea")
        assert [status_of(address, "/login", data=wrong, method="POST") for _ in range(6)] == [400] * 5 + [429]
        page.close()


@pytest.mark.parametrize("how", ["click", "escape"])
def test_an_answer_is_stopped_by_a_click_and_by_escape(browser, checkpoint, images, how):
    """A model that never comes to an end by itself, and answers of up to 1,800 tokens.

    Stands behind the tests of the shared page, as all that serve another: Gradio has one folder of uploads a process.
    """
    with served(Room(Visits(talker(checkpoint), Sampling(limit=1800)))) as address:
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("#question textarea")
        bring(page, checkpoint.photograph)
        page.fill("#question textarea", "Tell me more.")
        page.press("#question textarea", "Enter")
        page.wait_for_function("document.querySelector('#log [aria-busy]')?.innerText.length > 40")
        if how == "click":
            page.click("#stop")
        else:
            page.keyboard.press("Escape")
        page.wait_for_selector("#log .mdf-notes:has-text('Stopped before its end.')")
        said = page.inner_text("#log .mdf-words")
        assert said and page.locator("#log [aria-busy]").count() == 0
        page.wait_for_timeout(500)
        assert page.inner_text("#log .mdf-words") == said  # no word comes afterwards
        page.fill("#question textarea", "What is the eye pressure?")  # and the next question is answered
        page.press("#question textarea", "Enter")
        page.wait_for_selector("#log :text('cannot be told from this photograph')")
        page.close()
