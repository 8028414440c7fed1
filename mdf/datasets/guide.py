"""What `prepare.py list` says of each data set: what it holds, licence, citation, where to get it, and its layout."""

from dataclasses import dataclass
from importlib import import_module

from mdf.checking import DATASETS


@dataclass(frozen=True)
class Guide:
    """The page of one data set; every reader has one as `GUIDE`."""

    name: str
    holds: str
    images: str  # how many photographs the release has
    licence: str
    citation: str
    get: str
    layout: str

    def text(self) -> str:
        lines = [("holds", self.holds), ("images", self.images), ("licence", self.licence), ("cite", self.citation)]
        lines += [("get it", self.get), ("layout", self.layout)]
        return self.name + "\n" + "\n".join(f"  {k + ':':9}{v}" for k, v in lines)


def text() -> str:
    """All pages."""
    readers = (*DATASETS, "flair", "folder", "table", "huggingface", "phantom")
    return "\n\n".join(import_module(f"mdf.datasets.{name}").GUIDE.text() for name in readers)
