"""`report.py review` and `report.py export`: a person's corrections, and what is learnt from them."""

import argparse
from pathlib import Path

from mdf.errors import UserError
from mdf.files import sha256
from mdf.imaging.decode import load_image
from mdf.inference.pictures import Pictures
from mdf.inference.report import Report


def main(argv: list[str]) -> None:
    """Run one of the two verbs; `argv` begins with its name."""
    parser = argparse.ArgumentParser(prog="report.py", description="Correct drafts, and make training records of it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    review = verbs.add_parser("review", help="save a signed review beside its draft, which stays as it is")
    review.add_argument("draft", metavar="DRAFT.json", help="the draft; reviews that lie beside it are built upon")
    review.add_argument(
        "--edits", metavar="FILE", required=True, help="what the page saved, or the report's JSON changed by hand"
    )
    review.add_argument("--reviewer", metavar="NAME", help="who signs (default: the name in the edits)")
    review.add_argument(
        "--format",
        metavar="F,F",
        default="",
        help="also write the reviewed report as md, html, pdf or fhir",
    )
    review.add_argument(
        "--photographs", metavar="DIR", help="folder of the photographs, to show them in md, html and pdf"
    )
    review.add_argument(
        "--known", action="append", default=[], metavar="FACT",
        help='what no photograph shows and codes in FHIR need, "type 2 diabetes" or "right: macular oedema" say; '
        "again for more",
    )  # fmt: skip
    export = verbs.add_parser("export", help="write what clinicians confirmed or changed as a manifest")
    export.add_argument("folder", metavar="FOLDER", help="folder of drafts and reviews")
    export.add_argument("--out", metavar="FILE.jsonl", required=True, help="the manifest")
    export.add_argument(
        "--photographs", metavar="DIR", help="folder of the photographs, checked to be those that were reviewed"
    )
    words = parser.parse_args(argv)
    if words.verb == "review":
        review_and_write(words)
    else:
        from mdf.inference.corrections import export_reviews

        records = export_reviews(words.folder, words.out, words.photographs)
        print(f"{words.out}: {len(records)} reviewed eyes")


def review_and_write(words: argparse.Namespace) -> None:
    """Save the review, then the reviewed report in the other forms that were asked for."""
    from mdf.inference.codes import check_eyes, codes_for
    from mdf.inference.render import check_formats, write
    from mdf.inference.report import read_report
    from mdf.inference.review import read_text
    from mdf.inference.review import review as save

    formats = check_formats(words.format.split(",")) if words.format else []
    codes_for("eye", known=words.known)  # refuses what no code asks for
    if words.known:
        draft = read_report(read_text(Path(words.draft)), words.draft)
        check_eyes(words.known, [eye.laterality.eye for eye in draft.eyes])
    pictures = []
    if words.photographs:  # of the draft: a review never changes which photograph it is about
        pictures = photographs_of(read_report(read_text(Path(words.draft)), words.draft), Path(words.photographs))
    path = save(words.draft, words.edits, words.reviewer)
    print(path)
    report = read_report(path.read_text(encoding="utf-8"), str(path))
    others = [kind for kind in formats if kind != "json"]  # which is the review itself
    name = path.name.removesuffix(".json")
    for written in write(report, pictures, path.parent, others, name, known=words.known) if others else []:
        print(written)


def photographs_of(report: Report, folder: Path) -> list[Pictures]:
    """The photograph of each eye, found by its name and checked to be the one that the draft was made of; without
    layers, which a report does not keep.
    """
    found = []
    for photograph in (eye.photograph for eye in report.eyes):
        path = folder / photograph.name
        if Path(photograph.name).name != photograph.name or not path.is_file():
            raise UserError(f"{path}: the photograph of the report is missing; leave out --photographs to do without")
        if sha256(path) != photograph.sha256:
            raise UserError(f"{path} is another photograph than the one of the report")
        found.append(Pictures(load_image(path)))
    return found
