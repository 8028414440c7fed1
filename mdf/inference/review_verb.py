"""`report.py review` and `report.py export`: a person's corrections, and what is learnt from them."""

import argparse


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
    export = verbs.add_parser("export", help="write what clinicians confirmed or changed as a manifest")
    export.add_argument("folder", metavar="FOLDER", help="folder of drafts and reviews")
    export.add_argument("--out", metavar="FILE.jsonl", required=True, help="the manifest")
    export.add_argument(
        "--photographs", metavar="DIR", help="folder of the photographs, checked to be those that were reviewed"
    )
    words = parser.parse_args(argv)
    if words.verb == "review":
        from mdf.inference.render import check_formats, write
        from mdf.inference.report import read_report
        from mdf.inference.review import review as save

        formats = check_formats(words.format.split(",")) if words.format else []
        path = save(words.draft, words.edits, words.reviewer)
        print(path)
        report = read_report(path.read_text(encoding="utf-8"), str(path))
        others = [kind for kind in formats if kind != "json"]  # which is the review itself
        for written in write(report, [], path.parent, others, path.name.removesuffix(".json")) if others else []:
            print(written)
    else:
        from mdf.inference.corrections import export_reviews

        records = export_reviews(words.folder, words.out, words.photographs)
        print(f"{words.out}: {len(records)} reviewed eyes")
