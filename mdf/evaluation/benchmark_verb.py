"""`evaluate.py benchmark NAME …`: the protocols of others; no torch before the options are read."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

DESCRIPTION = """\
Score a model as others score theirs; every figure with a 95 % interval, patients (or photographs) resampled.

  odir EVALUATION…       ODIR-5K's challenge: a patient a row, the mean of kappa, F1 and AUC at 0.5, and what it hides.
                         Of evaluations that evaluate.py wrote (several are folds), or of a challenge's file (--csv)
  flair M.jsonl          FLAIR's protocol: zero-shot, linear probe and few shots on five reshuffles of the photographs
  funbench FILE|FOLDER   FunBench's questions (JSON), photographs below --images
  vlmeval FILE.tsv       a multiple-choice table of VLMEvalKit: Fundus-MMBench, GMAI-MMBench

RETFound's protocol is a probe on the splits that it publishes, with the figures that it prints:
  python scripts/prepare.py folder --root MESSIDOR2 --out messidor2.jsonl     (train/, val/ and test/ stay as they are)
  python scripts/evaluate.py --checkpoint DIR --features pooled --data messidor2.jsonl --tasks probe --out messidor2
"""


def main(argv: list[str]) -> None:
    """`evaluate.py benchmark`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py benchmark", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["odir", "flair", "funbench", "vlmeval"], help="whose protocol")
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="evaluations, or the benchmark's file or folder")
    parser.add_argument("--out", metavar="DIR", required=True, help="where metrics.json and the answers' file go")
    parser.add_argument("--task", default="diagnosis", choices=["diagnosis", "probe", "zero_shot"], help="odir: whose")
    parser.add_argument("--csv", metavar="FILE", help="odir: judge this file of the challenge on the same patients")
    parser.add_argument("--checkpoint", metavar="DIR", help="all but odir: checkpoint folder, or a run folder")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="flair: told apart (default: all)")
    parser.add_argument(
        "--allow-overlap", action="store_true", help="judge what the checkpoint was trained on all the same"
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the photographs (default: beside the file)")
    parser.add_argument(
        "--answers", default="text", choices=["text", "letter"], help="what is scored: an option's words, or its letter"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)
    from mdf.errors import UserError
    from mdf.evaluation.compare import table
    from mdf.evaluation.overlap import STAMP
    from mdf.files import write_json, write_text

    if args.name != "odir" and (not args.checkpoint or len(args.source) > 1):
        raise UserError(f"benchmark {args.name} needs --checkpoint DIR and one file or folder")
    out = Path(args.out)
    does = {"odir": odir, "flair": flair}.get(args.name, choices)
    metrics, files = does(args)
    for name, text in files.items():
        write_text(out / name, text)
    write_json(out / "metrics.json", metrics)
    print(table(metrics))
    if metrics.get("overlap"):
        print("\n" + STAMP)
    print(f"\nwritten to {out}")


def odir(args: Any) -> tuple[dict, dict[str, str]]:
    """Figures and files of the challenge."""
    from mdf.evaluation.odir_score import by_patient, odir_metrics, read_csv, to_csv
    from mdf.evaluation.paired import KEYS, read_answers

    lines = list(read_answers(args.source, args.task).values())
    patients, truth, scores = by_patient(lines, *KEYS[args.task])
    if args.csv:
        scores = read_csv(Path(args.csv), patients)
    metrics = {
        "benchmark": "odir",
        "of": args.csv or args.source,
        **odir_metrics(patients, truth, scores, seed=args.seed),
    }
    return metrics, {"odir.csv": to_csv(patients, scores)}


def flair(args: Any) -> tuple[dict, dict[str, str]]:
    """Figures of FLAIR's protocol."""
    from mdf.evaluation import protocols
    from mdf.evaluation.overlap import overlap_with
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.predictor import load_embedder
    from mdf.records import read_manifest

    checkpoint, manifest = resolve_checkpoint(args.checkpoint), read_manifest(args.source[0])
    records = manifest.records
    found = overlap_with(checkpoint, records, manifest, allow=args.allow_overlap)
    model = load_embedder(checkpoint, device=args.device)
    metrics: dict = {"benchmark": "flair", "checkpoint": str(checkpoint)}
    if found:
        metrics["overlap"] = {name: len(ids) for name, ids in found.items()}
    return metrics | protocols.flair(model, records, manifest, args.classes, seed=args.seed), {}


def choices(args: Any) -> tuple[dict, dict[str, str]]:
    """Figures and answers of multiple-choice questions."""
    from mdf.evaluation import choices as asked
    from mdf.evaluation.overlap import overlap_with
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.predictor import load_model

    checkpoint, source = resolve_checkpoint(args.checkpoint), Path(args.source[0])
    images = Path(args.images) if args.images else None
    if args.name == "funbench":
        questions = asked.read_funbench(source, images or (source if source.is_dir() else source.parent))
    else:
        questions = asked.read_tsv(source, images)
    with TemporaryDirectory() as folder:
        manifest = asked.photographs(questions, Path(folder))
        found = overlap_with(checkpoint, manifest.records, manifest, allow=args.allow_overlap)
    model = load_model(checkpoint, args.device)
    given = asked.chosen(questions, asked.answer(model, questions, args.answers))
    metrics = {"benchmark": args.name, "checkpoint": str(checkpoint), "answers": args.answers}
    if found:
        metrics["overlap"] = {name: len(ids) for name, ids in found.items()}
    metrics |= asked.choice_metrics(questions, given, seed=args.seed)
    if args.name == "vlmeval":
        return metrics, {"predictions.tsv": asked.table_of_answers(questions, given)}
    return metrics, {f"answers/{name}.json": text for name, text in asked.written_answers(questions, given).items()}
