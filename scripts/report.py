"""Write draft reports of photographs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mdf import cli

EPILOG = """\
examples:
  python scripts/report.py --checkpoint runs/quickstart left.jpg right.jpg --out reports      a report of each
  python scripts/report.py --checkpoint runs/quickstart --left l.jpg --right r.jpg --out reports     one of both eyes
  python scripts/report.py --checkpoint runs/quickstart --eye left l.jpg --earlier 2025/l.json --out reports
  python scripts/report.py --checkpoint runs/quickstart --data PHOTOGRAPHS --out screening            very many
  accelerate launch --num_processes 8 scripts/report.py --checkpoint runs/quickstart --data M.jsonl --out screening
  python scripts/report.py summary screening                                 the page of them, whatever there is so far
  python scripts/report.py review reports/l.json --edits l.edits.json        a person's corrections, signed
  python scripts/report.py export reports --out reviews.jsonl                training records of what was corrected

OUT gets NAME.md, NAME.html, NAME.pdf, NAME.json, NAME.fhir.json as asked for; the name is the photograph's own, with a
number where OUT has a report of another one. Of the file's metadata nothing is kept but the eye side. The form of the
Markdown is prompts/report_form.md, recommendations by diagnosis are in prompts/recommendations.yaml of the checkpoint,
those by grade in mdf/data/referral.yaml.

With --data, OUT/reports/ holds the reports, OUT/index.html and index.csv what came of them, the most urgent first. The
same command goes on where it was stopped, and leaves alone what is there. A photograph that is no good is listed and
stops nothing. A left and a right eye of one patient in a manifest go into one report. Exit codes: 0 done, 1 some
failed, 2 wrong input, 143 stopped by SIGTERM after the report in hand.

Every report is a draft for research that a clinician must check against the photograph and sign.
"""


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write a draft report: quality, findings, grades, impression, recommendation, overlays.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="photographs, a report of each: JPEG, PNG, DICOM …")
    parser.add_argument("--left", metavar="FILE", help="left eye of a patient, in one report with --right")
    parser.add_argument("--right", metavar="FILE", help="right eye")
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the reports")
    parser.add_argument("--format", default="md,html,json", help="one or more of md,html,pdf,json,fhir (%(default)s)")
    parser.add_argument("--rules", default="ICO 2017", help='rules of referral: "ICO 2017" (default), ADA, NHS')
    parser.add_argument(
        "--eye", choices=["left", "right"], help="eye side of all photographs (default: told from each)"
    )
    parser.add_argument("--earlier", metavar="FILE.json", help="report of an earlier visit, to say what changed")
    parser.add_argument("--patient", metavar="NAME", help="a pseudonym that stands in the report")
    parser.add_argument(
        "--sign", action="append", default=[], metavar="NAME",
        help="a finding that a person saw in the photograph, preretinal_haemorrhage say; again for more",
    )  # fmt: skip
    parser.add_argument(
        "--known", action="append", default=[], metavar="FACT",
        help='what no photograph shows and codes in FHIR need, "type 2 diabetes" or "right: macular oedema" say; '
        "again for more",
    )  # fmt: skip
    parser.add_argument(
        "--maps", action="store_true", help="where the adapters of each depth looked, in html and pdf (slower)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also report on what does not look like a retina, or on two eyes that look like the same side",
    )
    very_many = parser.add_argument_group("very many photographs")
    very_many.add_argument(
        "--data", metavar="FOLDER|M.jsonl|LIST.txt", help="all below a folder, of a manifest, or of a list of paths"
    )
    very_many.add_argument(
        "--data-root", metavar="DIR", help="folder of the manifest's photographs, where they have moved"
    )
    cli.add_batch(very_many)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["summary"]:
        from mdf.inference.batch_verb import summary

        summary(argv[1:])
        return 0
    if argv[:1] in (["review"], ["export"]):
        from mdf.inference.review_verb import main as correct

        correct(argv)
        return 0
    args = options().parse_args(argv)

    from mdf.errors import UserError
    from mdf.inference.codes import check_eyes, codes_for
    from mdf.inference.gate import gate, resolve_checkpoint
    from mdf.inference.referral import check_rules
    from mdf.inference.report import read_report
    from mdf.vocabulary import canonical

    if args.data:
        from mdf.inference.batch_verb import many

        return many(args)
    if args.data_root or args.shard or args.retry:
        raise UserError("--data-root, --shard and --retry belong to --data")
    both = [args.left, args.right]
    if any(both) and (not all(both) or args.images or args.eye or args.sign):
        raise UserError("--left and --right go together, without other photographs, --eye and --sign")
    if not any(both) and not args.images:
        raise UserError("which photograph? Name one or more, or --left FILE --right FILE")
    if folders := [image for image in args.images if Path(image).is_dir()]:
        raise UserError(f"{folders[0]} is a folder; name it with --data for reports of all below it")
    if len(args.images) > 1 and (args.earlier or args.patient or args.sign or args.known):
        raise UserError(
            "--earlier, --patient, --sign and --known belong to one report: name one photograph, or --left and --right"
        )
    rules, earlier, signs = check_rules(args.rules), None, [canonical(name) for name in args.sign]
    if args.earlier:
        try:
            earlier = read_report(Path(args.earlier).read_text(encoding="utf-8-sig"), args.earlier)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--earlier {args.earlier} cannot be read: {error}") from None
    from mdf.inference.render import check_formats, check_out, own_name, write
    from mdf.inference.sides import worded_side

    formats = check_formats([word for word in args.format.split(",") if word])
    check_out(args.out)
    codes_for("eye", known=args.known)  # refuses what no code asks for
    if all(both):
        check_eyes(args.known, ["left", "right"])
    checkpoint = resolve_checkpoint(args.checkpoint)
    # all of them before torch is imported: a wrong file is known at once, nothing is half done
    groups = [both] if all(both) else [[image] for image in args.images]
    sides: list[Any] = ["left", "right"] if all(both) else [args.eye]
    for group in groups:
        for image, side in zip(group, sides, strict=True):
            gate(image, force=args.force)
            worded_side(Path(image), side)
    used: set[str] = set()
    names = [own_name(args.out, group, used) for group in groups]

    from mdf.inference.draft import draft
    from mdf.inference.predictor import Predictor

    predictor = Predictor(checkpoint, args.device)
    for group, name in zip(groups, names, strict=True):
        photographs = [predictor.read(image, force=args.force) for image in group]
        report, pictures = draft(
            predictor,
            photographs,
            eyes=sides,
            rules=rules,
            patient=args.patient,
            earlier=earlier,
            signs=[signs],
            force=args.force,
            maps=args.maps,
        )
        own = {"form": predictor.form, "known": args.known}
        print(*write(report, pictures, args.out, formats, name, **own), sep="\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
