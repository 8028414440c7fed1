"""Evaluate a checkpoint on the photographs of a manifest, or compare two evaluations."""

import argparse
import sys
from pathlib import Path

from mdf import cli

TASKS = (
    "diagnosis",
    "generate",
    "masks",
    "retrieval",
    "spatial",
    "controls",
)  # as in mdf.evaluation.evaluate, which loads torch
DESCRIPTION = """\
Evaluate a checkpoint on the photographs of a manifest; writes OUT/metrics.json and OUT/predictions.jsonl.

tasks:
  diagnosis   likelihood of each candidate diagnosis: accuracy, balanced accuracy, macro F1, macro AUROC
  generate    the diagnosis and a report in the model's own words; the diagnosis is read from the text
  masks       Dice of vessels (and lesions)
  retrieval   caption to photograph and back, R@1 and R@5
  spatial     small lesions: is it there, in which quadrant, how many
  controls    does the checkpoint use the picture? diagnosis again with blank and with other patients' pictures

Every number comes with a 95 % interval from 1000 resamples of whole patients.
"""
EPILOG = """\
examples:
  python scripts/evaluate.py --checkpoint runs/quickstart --data data/odir5k.jsonl --out runs/quickstart/evaluation
  python scripts/evaluate.py --checkpoint runs/quickstart --data data/odir5k.jsonl --tasks controls --out controls
  python scripts/evaluate.py compare runs/quickstart runs/baseline
"""


def compare_main(argv: list[str]) -> None:
    """`evaluate.py compare A B`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py compare", description="Print the metrics of two evaluations side by side."
    )
    parser.add_argument("first", metavar="A", help="folder with metrics.json, or a run folder")
    parser.add_argument("second", metavar="B", help="likewise; differences are B - A")
    args = parser.parse_args(argv)
    from mdf.evaluation.compare import compare

    print(compare(args.first, args.second))


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        return compare_main(argv[1:])
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--data", metavar="M.jsonl", required=True, help="manifest, as scripts/prepare.py writes it")
    parser.add_argument("--out", metavar="DIR", required=True, help="where metrics.json and predictions.jsonl go")
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test", "all"], help="photographs used (default: test)"
    )
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", default=list(TASKS), help="some of the tasks above (default: all)"
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="at most N photographs, drawn by the seed (default: all)"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the photographs, where the manifest's own has moved"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photographs at once (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of --limit, shuffling and resampling (default: 0)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)
    tasks = [t for word in args.tasks for t in word.split(",") if t]

    from mdf.errors import UserError

    if unknown := sorted(set(tasks) - set(TASKS)):
        raise UserError(f"--tasks: unknown {', '.join(unknown)}; choose from {', '.join(TASKS)}")
    if args.batch_size < 1 or args.limit < 0:
        raise UserError("--batch-size must be at least 1 and --limit at least 0")

    from mdf.inference.gate import resolve_checkpoint
    from mdf.records import read_manifest

    checkpoint = resolve_checkpoint(args.checkpoint)
    manifest = read_manifest(args.data, data_root=args.data_root)
    records = manifest.split(args.split)
    if not records:
        raise UserError(f"{args.data}: no photograph in split {args.split}; try --split all")

    from mdf.evaluation.compare import table
    from mdf.evaluation.controls import verdict
    from mdf.evaluation.evaluate import draw, evaluate
    from mdf.inference.predictor import load_model

    metrics = evaluate(
        load_model(checkpoint, args.device),
        draw(records, args.limit, args.seed),
        manifest,
        args.out,
        tasks=tasks,
        batch_size=args.batch_size,
        checkpoint=str(checkpoint),
        seed=args.seed,
    )
    print(table(metrics))
    if "controls" in metrics:
        print("\n" + verdict(metrics["controls"]))
    print(f"\nwritten to {Path(args.out) / 'metrics.json'} and predictions.jsonl")


if __name__ == "__main__":
    cli.run(main)
