"""The verbs of evaluate.py, `evaluate.py compare A B` and so on: their options; no torch before these are read."""

import argparse

from mdf.evaluation import benchmark_verb


def compare_main(argv: list[str]) -> None:
    """`evaluate.py compare A B …`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py compare",
        description="Print the metrics of two or more evaluations side by side, with the differences to the first.",
        epilog="A difference has an interval where predictions.jsonl of both is there: patients are resampled once for "
        "both. An interval that leaves 0 out is more than the choice of patients.",
    )
    parser.add_argument("folders", metavar="A", nargs="+", help="folders with metrics.json, or run folders")
    parser.add_argument("--out", metavar="DIR", help="also write the comparison as a page, DIR/index.html")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (%(default)s)")
    args = parser.parse_args(argv)
    from pathlib import Path

    from mdf.evaluation.compare import compare, differences

    print(compare(args.folders, seed=args.seed))
    if args.out:
        from mdf.evaluation.page_comparison import write_comparison

        page = write_comparison(Path(args.out), args.folders, paired=differences(args.folders, seed=args.seed))
        print(f"written to {page}")


def paired_main(argv: list[str]) -> None:
    """`evaluate.py paired A… --with B… --with C…`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py paired",
        description="Compare two or more models on the same photographs: B - A, patients resampled once for both.",
        epilog="Several folders a side are folds: evaluations of one fold each, joined.",
    )
    parser.add_argument("first", metavar="A", nargs="+", help="folders that evaluate.py wrote with --out")
    parser.add_argument(
        "--with", dest="others", metavar="B", nargs="+", action="append", required=True, help="likewise; again for C"
    )
    parser.add_argument(
        "--task",
        default="probe",
        choices=["diagnosis", "probe", "zero_shot"],
        help="whose answers: diagnosis is the language model's own (%(default)s)",
    )
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="C", help="only photographs of these, judged among these (all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (%(default)s)")
    args = parser.parse_args(argv)
    from mdf.evaluation.compare import table
    from mdf.evaluation.paired import paired

    for number, other in enumerate(args.others):
        text = table(paired(args.first, other, task=args.task, classes=args.classes, seed=args.seed))
        heading = "" if len(args.others) == 1 else f"{' '.join(args.first)}  with  {' '.join(other)}\n"
        print(("\n" if number else "") + heading + text)


def transfer_main(argv: list[str]) -> None:
    """`evaluate.py transfer A B C …`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py transfer",
        description="One Markdown table of several evaluations: a row a data set and measure, a column a task "
        "(zero-shot, probe, few shots, retrieval), each with its interval and with what guessing reaches.",
        epilog="Rows can be compared only where classes and checkpoint are the same: the lines below the table say.",
    )
    parser.add_argument("folders", metavar="A", nargs="+", help="folders that evaluate.py wrote with --out, in order")
    parser.add_argument(
        "--few-shot",
        default="clap",
        metavar="METHOD",
        help="clap (the class-adaptive probe, default), tip_adapter or tip_adapter_f",
    )
    parser.add_argument("--out", metavar="FILE.md", help="also write the table to this file")
    args = parser.parse_args(argv)
    from mdf.evaluation.transfer import transfer

    print(transfer(args.folders, method=args.few_shot, out=args.out), end="")


BASELINE = """\
Train two baselines on the train split of a manifest, choose on val, judge on test: a linear probe on the frozen encoder
(OUT/probe) and the same encoder plainly fine-tuned with one linear layer (OUT/cnn). Both write metrics.json and
predictions.jsonl, which `evaluate.py paired` and `compare` read. The result is cached by data, splits and settings: a
second call answers at once, an interrupted one goes on after its last whole epoch.
"""


def baseline_main(argv: list[str]) -> None:
    """`evaluate.py baseline`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py baseline",
        description=BASELINE,
        epilog="then: evaluate.py paired OUT/cnn --with EVALUATION   (same --classes on both sides)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="M.jsonl", required=True, help="manifest with the splits train, val and test")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the photographs, where they have moved")
    parser.add_argument("--out", metavar="DIR", required=True, help="where probe/ and cnn/ go")
    parser.add_argument("--encoder", metavar="NAME", default="fundus-lite0", help="architecture (%(default)s)")
    parser.add_argument(
        "--weights",
        metavar="W",
        default="efficientnet-lite0-imagenet",
        help="open_clip tag, file, bundled name (%(default)s) or random",
    )
    parser.add_argument("--size", type=int, default=224, metavar="S", help="input side in pixels (%(default)s)")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="told apart (default: all diagnoses)")
    parser.add_argument("--epochs", type=int, default=6, metavar="N", help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=5e-4, help="peak learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of training and resampling (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)
    from mdf.evaluation.baseline import baseline
    from mdf.evaluation.compare import compare
    from mdf.evaluation.fine_tuned import Recipe
    from mdf.inference.predictor import load_embedder
    from mdf.records import read_manifest

    recipe = Recipe(epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, seed=args.seed)
    recipe.check()
    manifest = read_manifest(args.data, data_root=args.data_root)
    weights = None if args.weights == "random" else args.weights
    baseline(
        load_embedder(None, args.encoder, weights, args.size, args.device),
        manifest,
        args.out,
        recipe=recipe,
        classes=[c for word in args.classes for c in word.split(",") if c],
        name=f"{args.encoder} {args.weights} {args.size} px",
        seed=args.seed,
    )
    print(compare([f"{args.out}/probe", f"{args.out}/cnn"]))


def add_checkpoint(parser: argparse.ArgumentParser, data: str) -> None:
    """The options that name a checkpoint and its photographs; `data` says what the manifest has to hold."""
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder")
    parser.add_argument("--data", metavar="M.jsonl", required=True, help=data)
    parser.add_argument("--data-root", metavar="DIR", help="folder of the photographs, where they have moved")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")


LAYERS = """\
Where is the information about the diagnosis lost? A linear probe on what each part of a checkpoint makes of a
photograph, from encoder and U-Net over the connector and the hidden states of the question's last token to the answer,
all learnt from the manifest's train split, tuned on val and judged on --split (where that is val, tuned on a share of
the training patients instead). Writes OUT/layers.json.
"""


def layers_main(argv: list[str]) -> None:
    """`evaluate.py layers`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py layers", description=LAYERS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_checkpoint(parser, "manifest with the splits train and val, too")
    parser.add_argument("--out", metavar="DIR", required=True, help="where layers.json goes")
    parser.add_argument("--split", default="test", choices=["test", "val"], help="photographs judged (%(default)s)")
    parser.add_argument("--learn", type=int, default=0, metavar="N", help="at most N training photographs (all)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="photographs at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of --learn and resampling (%(default)s)")
    args = parser.parse_args(argv)
    from mdf.errors import UserError

    if args.batch_size < 1 or args.learn < 0:
        raise UserError("--batch-size must be at least 1, --learn at least 0")
    from mdf.evaluation.layers import layers, table_of, verdict
    from mdf.evaluation.overlap import overlap_with
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.predictor import load_model
    from mdf.records import read_manifest

    checkpoint = resolve_checkpoint(args.checkpoint)
    manifest = read_manifest(args.data, data_root=args.data_root)
    overlap_with(checkpoint, manifest.split(args.split), manifest)
    report = layers(
        load_model(checkpoint, args.device),
        manifest,
        args.out,
        split=args.split,
        learn=args.learn,
        batch_size=args.batch_size,
        checkpoint=str(checkpoint),
        seed=args.seed,
    )
    print(table_of(report["layers"]))
    print(f"\n{verdict(report['layers'])}; a guess reaches {report['chance']:.3f}")


RECIPES = """\
How much does it matter how photographs are prepared for an encoder? One setting of its recipe is changed at a time: the
rule (squash, crop, pad, field), interpolation, what scales (PIL, torchvision on uint8 or float, without antialiasing),
mean and standard deviation, colours. Of each change: the cosine of the features to the right ones, and what a linear
probe reaches, fitted on the right preparation or anew: on the train split, tuned on val and judged on --split (where
that is val, tuned on a share of the training patients instead). Writes OUT/recipes.json.
"""


def recipes_main(argv: list[str]) -> None:
    """`evaluate.py recipes`."""
    from mdf import cli

    parser = argparse.ArgumentParser(
        prog="evaluate.py recipes", description=RECIPES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_encoder(parser)
    parser.add_argument("--data", metavar="M.jsonl", required=True, help="manifest with the splits train and val, too")
    parser.add_argument("--out", metavar="DIR", required=True, help="where recipes.json goes")
    parser.add_argument("--split", default="test", choices=["test", "val"], help="photographs judged (%(default)s)")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="told apart (default: all diagnoses)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N photographs a split (all)")
    parser.add_argument(
        "--features", choices=["pooled", "embedding"], default="pooled", help="read by the probe (%(default)s)"
    )
    parser.add_argument(
        "--aspect",
        type=float,
        default=0.0,
        metavar="A",
        help="put photographs that were cut to a square back into a black frame, A times as wide as high",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photographs at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of --limit and resampling (%(default)s)")
    args = parser.parse_args(argv)
    from mdf.errors import UserError

    cli.check_encoder(args)
    if args.batch_size < 1 or args.limit < 0 or not (args.aspect == 0 or 0.2 <= args.aspect <= 5):
        raise UserError("--batch-size must be at least 1, --limit at least 0, --aspect 0 or from 0.2 to 5")
    from mdf.evaluation.overlap import overlap_with
    from mdf.evaluation.recipes import recipe_report, table_of
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.predictor import load_embedder
    from mdf.records import read_manifest

    checkpoint = resolve_checkpoint(args.checkpoint) if args.checkpoint else None
    manifest = read_manifest(args.data, data_root=args.data_root)
    if checkpoint is not None:
        overlap_with(checkpoint, manifest.split(args.split), manifest)
    report = recipe_report(
        load_embedder(checkpoint, args.encoder, args.weights, args.size, args.device),
        manifest,
        args.out,
        classes=args.classes,
        split=args.split,
        limit=args.limit,
        features=args.features,
        aspect=args.aspect,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    print(f"{report['n']} photographs, probes fitted on {report['train']}, classes {', '.join(report['classes'])}\n")
    print(table_of(report["recipes"]))


CALIBRATE = """\
Fit the operating point of a checkpoint on the val split and write it into the checkpoint: the temperature that makes
its probabilities honest, a threshold of each diagnosis and, with --risk, the confidence below which it does not answer.
An evaluation then says what is reached at that point, too. The test split is never looked at.
"""


def calibrate_main(argv: list[str]) -> None:
    """`evaluate.py calibrate`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py calibrate", description=CALIBRATE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_checkpoint(parser, "manifest with a val split")
    parser.add_argument(
        "--risk", type=float, metavar="R", help="share of wrong answers that is accepted, 0.1 say (default: answer all)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photographs at once (%(default)s)")
    args = parser.parse_args(argv)
    from mdf.errors import UserError

    if args.batch_size < 1 or not (args.risk is None or 0 < args.risk < 1):
        raise UserError("--batch-size must be at least 1, --risk above 0 and below 1")
    from mdf.evaluation.diagnosis import fit
    from mdf.evaluation.overlap import overlap_with
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.predictor import load_model
    from mdf.records import read_manifest

    checkpoint = resolve_checkpoint(args.checkpoint)
    manifest = read_manifest(args.data, data_root=args.data_root)
    overlap_with(checkpoint, manifest.split("val"), manifest)
    point = fit(load_model(checkpoint, args.device), manifest, batch_size=args.batch_size, risk=args.risk)
    point.write(checkpoint)
    print(f"fitted on {point.n} photographs of the val split; temperature {point.temperature:.3f}")
    print("said to be there from a calibrated probability of:")
    for name in point.classes:
        limit = point.thresholds.get(name)
        print(f"  {name:<28} {'none: validation has no such photograph' if limit is None else f'{limit:.3f}'}")
    for name, limit in point.findings.items():
        print(f"  {name:<28} {limit:.3f} (the answer to whether there are any)")
    if point.abstain_below:
        print(f"not answered below a confidence of {point.abstain_below:.3f}")
    else:
        within = "" if args.risk is None else f": no more than {args.risk:g} of the answers are wrong as it is"
        print(f"every photograph is answered{within}")
    print(f"written to {checkpoint / 'operating_point.json'}")


VERBS = {
    "benchmark": benchmark_verb.main,
    "compare": compare_main,
    "paired": paired_main,
    "transfer": transfer_main,
    "baseline": baseline_main,
    "calibrate": calibrate_main,
    "layers": layers_main,
    "recipes": recipes_main,
}
