"""A page as a strict reader sees it: elements that are closed, attributes, words, and the cells of metrics.json."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page; an element that is not closed, or closed twice, is an error."""

    void = VOID

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: dict[str, str] = {}  # data-name -> text
        self.cell: str | None = None
        self.feed(self.source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if dict(attrs).get("data-name"):
            self.cell = dict(attrs)["data-name"]
            self.cells[self.cell] = ""

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if "head" in self.open:
            return
        self.words.append(data)
        if self.cell is not None:
            self.cells[self.cell] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def assert_self_contained(page: Page) -> None:
    """Nothing is fetched and nothing runs: no script, no handler, no address but data and places on the page itself."""
    forbidden = {"script", "link", "iframe", "object", "embed", "base", "form", "image", "use", "foreignobject"}
    assert not forbidden & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
                assert value and value.startswith(("#", "data:image/jpeg;base64,")), (tag, name, value)
            assert "://" not in (value or ""), (tag, name, value)
            assert "url(" not in (value or "")
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style and "://" not in style
    assert any("default-src 'none'" in (m.get("content") or "") for m in page.named("meta"))
