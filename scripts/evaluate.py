"""Evaluate a checkpoint on the photographs of a manifest, or put evaluations side by side."""

import argparse
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mdf import cli
from mdf.evaluation.tasks import DEFAULT_TASKS, EMBEDDING_TASKS, FEATURES, GENERATED, check_words
from mdf.evaluation.verbs import VERBS

DESCRIPTION = """\
Evaluate a checkpoint on the photographs of a manifest; writes OUT/metrics.json, predictions.jsonl and index.html, a
page with tables, curves and the worst and most typical cases.

tasks:
  diagnosis   likelihood of each candidate diagnosis: accuracy, F1, AUROC and the like, each class, calibration, what is
              left to a clinician at which risk, subgroups; with an operating point (verb calibrate) at that as well
  generate    the diagnosis and a report in the model's own words, judged by what they say: facts found or invented
  masks       Dice, IoU and AUROC of vessels and lesions, clDice of vessels
  retrieval   caption to photograph and back, photograph to other patients' photographs: R@1, R@5, R@10, mAP
  zero_shot   photographs against texts of each class (prompts/zero_shot.yaml), without and with expert descriptions
  spatial     small lesions: is it there, in which quadrant, how many
  controls    does the checkpoint use the picture? diagnosis again with a blank one, with another patient's, with
              none, from the source alone, and with the right answer taken away
only when asked for:
  probe       logistic regression on frozen features, trained on the manifest's train split (or --folds K)
  few_shot    1, 4 and 16 photographs a class from the train split, five draws: class-adaptive probe, Tip-Adapter(-F)
  maps        do the explanation maps point at the lesion, and does the answer hang on what they show? Beside random
              maps, the middle of the picture and the U-Net's own masks
  counterfactual
              pairs of phantoms that differ in one thing (only for checkpoints that were trained on phantoms): does
              the answer change, and only as it should?
  reports     the structured findings of a draft report: which lesions, in which quadrant, how many; is a lesion
              invented where there is none, an eye side wrong

Does it hold on another camera, in another country? With --learn-from M2.jsonl probe and few_shot learn from the train
and val splits of M2 and are judged on --data. The classes are then those that both know (what is left out is said),
or those of --classes. A photograph or patient in both is refused.

Every number comes with a 95 % interval from 1000 resamples of whole patients.

evaluations side by side, each with a --help of its own:
  compare A B …       every number of two or more evaluations, with differences to the first and their intervals
  paired A --with B   is the difference of two models more than the choice of patients?
  transfer A B C …    one Markdown table, a row a data set, a column a task
  baseline            train what every checkpoint has to beat: a linear probe, and a plainly fine-tuned CNN
  calibrate           temperature, thresholds and abstention from the val split, written into the checkpoint
  benchmark NAME …    as others score: ODIR's challenge, FLAIR's protocol, FunBench, tables of VLMEvalKit
  layers              where is the information about the diagnosis lost? a probe on every part of a checkpoint
  recipes             how much does it matter how photographs are prepared for the encoder?
"""
EPILOG = """\
examples:
  python scripts/evaluate.py --checkpoint runs/quickstart --data data/odir5k.jsonl --out runs/quickstart/evaluation
  python scripts/evaluate.py --checkpoint runs/quickstart --data data/odir5k.jsonl --tasks controls --out controls
  python scripts/evaluate.py compare evaluation other_evaluation
  python scripts/evaluate.py --checkpoint runs/odir5k --data odir5k.jsonl --tasks zero_shot,probe,few_shot --out uses
  python scripts/evaluate.py --checkpoint runs/odir5k --data hrf.jsonl --split all --tasks zero_shot \\
      --classes normal diabetic_retinopathy glaucoma --out hrf
  python scripts/evaluate.py --encoder fundus-lite0 --weights efficientnet-lite0-imagenet --size 224 \\
      --features pooled --data odir5k.jsonl --tasks probe --folds 5 --out imagenet
  python scripts/evaluate.py paired imagenet --with other_encoder
trained on ODIR-5K, judged on other cameras:
  python scripts/evaluate.py --checkpoint runs/odir5k --data hrf.jsonl --split all --out on_hrf \\
      --learn-from runs/odir5k/data.jsonl --tasks zero_shot,probe,few_shot,retrieval
  python scripts/evaluate.py transfer uses on_hrf on_les_av --out transfer.md
"""


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in VERBS:
        return VERBS[argv[0]](argv[1:])
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_encoder(parser)
    parser.add_argument("--data", metavar="M.jsonl", required=True, help="manifest, as scripts/prepare.py writes it")
    parser.add_argument("--out", metavar="DIR", required=True, help="where metrics.json and predictions.jsonl go")
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test", "all"], help="photographs used (default: test)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=list(DEFAULT_TASKS),
        help="some of the tasks above (default: all of the first list)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="told apart by zero_shot, probe and few_shot (default: those of the checkpoint and of the photographs)",
    )
    parser.add_argument(
        "--folds", type=int, default=0, metavar="K", help="probe: K folds by patient over all photographs"
    )
    parser.add_argument(
        "--learn-from", metavar="M2.jsonl", help="manifest whose train and val splits probe and few_shot learn from"
    )
    parser.add_argument("--learn-from-root", metavar="DIR", help="folder of its photographs, where they have moved")
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default="embedding",
        help="read by the probe: the unit embedding (default), the mean of the patch tokens before the projection, or "
        "mean and maximum of them over the photograph and its mirror image",
    )
    parser.add_argument(
        "--fellow-eye",
        action="store_true",
        help="probe: reads the patient's other eye beside each photograph, where the manifest has it in the same split",
    )
    parser.add_argument(
        "--prompts-of",
        metavar="NAME",
        help="zero_shot: also as this release's authors run it (flair, mmfundusclip, "
        "ret-clip, or a YAML file; default: the encoder's own release)",
    )
    parser.add_argument(
        "--definitions",
        metavar="FILE",
        help="zero_shot: what that release says of its classes (FLAIR's dictionary.py, "
        "or YAML; default: the vocabulary's descriptions)",
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="at most N photographs, drawn by the seed (default: all)"
    )
    parser.add_argument(
        "--generated",
        type=int,
        default=GENERATED,
        metavar="N",
        help="task generate: at most N photographs, drawn by the seed; 0 = all (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photographs at once (default: 32)")
    parser.add_argument(
        "--no-photographs", action="store_true", help="leave photographs out of index.html: patients are behind them"
    )
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="judge photographs and patients that the checkpoint was trained on all the same; every page says so",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --limit, shuffling and resampling (default: 0)")
    args = parser.parse_args(argv)
    tasks = [t for word in args.tasks for t in word.split(",") if t]
    check_words(tasks, args)
    from mdf.inference.gate import resolve_checkpoint
    from mdf.records import read_manifest

    checkpoint = resolve_checkpoint(args.checkpoint) if args.checkpoint else None
    manifest = read_manifest(args.data, data_root=args.data_root)
    records = manifest.split("all" if args.folds else args.split)
    if not records:
        from mdf.errors import UserError

        raise UserError(f"{args.data}: no photograph in split {args.split}; try --split all")

    learn_from = read_manifest(args.learn_from, data_root=args.learn_from_root) if args.learn_from else None
    from mdf.evaluation.compare import table
    from mdf.evaluation.controls import verdict
    from mdf.evaluation.evaluate import evaluate
    from mdf.evaluation.operating_point import read_operating_point
    from mdf.evaluation.overlap import STAMP, overlap_with
    from mdf.evaluation.task import draw
    from mdf.inference.explain import diagnosis_map
    from mdf.inference.predictor import load_embedder, load_model
    from mdf.released_prompts import read_definitions, read_protocol

    protocol = read_protocol(args.prompts_of) if args.prompts_of else None
    definitions = read_definitions(args.definitions) if args.definitions else None
    if checkpoint is None or set(tasks) <= set(EMBEDDING_TASKS):
        model = load_embedder(checkpoint, args.encoder, args.weights, args.size, args.device)
    else:
        model = load_model(checkpoint, args.device)
    point = None
    if checkpoint is not None and {"diagnosis", "reports"} & set(tasks):
        point = read_operating_point(checkpoint, model.processor.diagnoses)
    judged = draw(records, args.limit, args.seed)
    found: dict = {}
    if checkpoint is not None:
        found = overlap_with(checkpoint, judged, manifest, allow=args.allow_overlap)
    print(f"{len(judged)} photographs of {args.data}, tasks {', '.join(tasks)}", flush=True)
    metrics = evaluate(
        model,
        judged,
        manifest,
        args.out,
        tasks=tasks,
        classes=[c for word in args.classes for c in word.split(",") if c],
        folds=args.folds,
        features=args.features,
        fellow=args.fellow_eye,
        learn_from=learn_from,
        protocol=protocol,
        definitions=definitions,
        batch_size=args.batch_size,
        generated=args.generated,
        point=point,
        overlap=found,
        draw_map=partial(diagnosis_map, model) if "diagnosis" in tasks and len(model.fusion.adapters) else None,
        photographs=not args.no_photographs,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        checkpoint=str(checkpoint or f"{args.encoder} {args.weights or 'random'}"),
        seed=args.seed,
    )
    print(table(metrics))
    if found:
        print("\n" + STAMP)
    if "controls" in metrics:
        print("\n" + verdict(metrics["controls"]))
    print(f"\nwritten to {Path(args.out) / 'index.html'}, metrics.json and predictions.jsonl")


if __name__ == "__main__":
    cli.run(main)
