"""Export a checkpoint: one folder that needs no base any more, with a model card."""

import argparse
from pathlib import Path

from mdf import cli

EPILOG = """\
example:
  python scripts/export.py --checkpoint runs/quickstart --out exported

LoRA is merged into the language model's weights, and the export answers as the checkpoint does, or nothing is written.
OUT is a checkpoint like any other (chat.py, report.py, evaluate.py read it), with the language model in OUT/language in
transformers' own layout, and OUT/README.md, a model card written from the run's files and its evaluation. What was not
measured stands there as "not measured"; read it before you give the model to anyone.

Exit codes: 0 done, 1 failed (a full disk included), 2 wrong input or a check that failed. Nothing is left half written.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Write a checkpoint as one folder that needs nothing else, with a model card.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--dtype", choices=["bf16", "fp32"], default="bf16", help="of the language model's weights (default: bf16)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in OUT")
    parser.add_argument("--run", metavar="DIR", help="folder of the run (default: the one that holds the checkpoint)")
    parser.add_argument(
        "--evaluation", metavar="DIR", help="what evaluate.py wrote (default: RUN/evaluation where it is there)"
    )
    parser.add_argument("--no-evaluation", action="store_true", help="metrics of the card: not measured")
    parser.add_argument("--card", metavar="FILE.md", help="your own text for the end of the card, as it is")
    args = parser.parse_args(argv)

    from mdf.errors import UserError
    from mdf.inference.gate import resolve_checkpoint

    checkpoint, out = resolve_checkpoint(args.checkpoint), Path(args.out)
    run = Path(args.run) if args.run else checkpoint.resolve().parent
    if args.run and not (run / "config.yaml").is_file():
        raise UserError(f"--run {run}: no config.yaml there; give the folder that train.py wrote")
    if args.evaluation and args.no_evaluation:
        raise UserError("--evaluation and --no-evaluation: give one of them")
    evaluation = Path(args.evaluation) if args.evaluation else None
    if evaluation is None and not args.no_evaluation and (run / "evaluation" / "metrics.json").is_file():
        evaluation = run / "evaluation"
    notes = ""
    if args.card:
        try:
            notes = Path(args.card).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--card {args.card} cannot be read ({error}); give a Markdown file") from None

    from mdf.inference.export import DTYPES, export
    from mdf.inference.model_card import card, read_run

    known = read_run(run if (run / "config.yaml").is_file() else None, evaluation, checkpoint)
    check = export(
        checkpoint,
        out,
        dtype=DTYPES[args.dtype],
        overwrite=args.overwrite,
        card=lambda model, origin, check: card(model, origin, check, known, notes),
    )
    print(f"{out}: {check}")


if __name__ == "__main__":
    cli.run(main)
