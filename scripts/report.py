"""Write draft reports of photographs."""

import argparse
from pathlib import Path

from mdf import cli

EPILOG = """\
example:
  python scripts/report.py --checkpoint runs/quickstart left.jpg right.jpg --out reports

For each photograph OUT gets NAME.md, NAME_photograph.jpg (without the metadata of the file) and NAME_masks.png.
The form is prompts/report_form.md of the checkpoint, the recommendations are in prompts/recommendations.yaml beside it:
a clinician can edit both.
Every report is a draft for research that a clinician must check against the photograph and sign.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Write a draft report of each photograph: quality, findings, impression, recommendation, masks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="photographs: JPEG, PNG, TIFF …")
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the reports")
    parser.add_argument(
        "--format", choices=["md"], default="md", help="md: Markdown with its pictures beside it (default)"
    )
    parser.add_argument(
        "--eye", choices=["left", "right"], help="eye side of all photographs (default: told from each)"
    )
    parser.add_argument(
        "--force", action="store_true", help="also report on a picture that does not look like a retina"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)

    from mdf.inference.gate import gate, resolve_checkpoint

    checkpoint = resolve_checkpoint(args.checkpoint)
    for (
        image
    ) in args.images:  # all of them before torch is imported: a wrong file is known at once, nothing is half done
        gate(image, force=args.force)

    from mdf.inference.draft import write_report
    from mdf.inference.predictor import Predictor

    predictor = Predictor(checkpoint, args.device)
    used: set[str] = set()
    for image in args.images:
        stem = name = Path(image).stem
        number = 2
        while name in used:  # photographs of the same name from two folders
            name, number = f"{stem}-{number}", number + 1
        used.add(name)
        print(write_report(predictor, image, args.out, force=args.force, eye=args.eye, name=name))


if __name__ == "__main__":
    cli.run(main)
