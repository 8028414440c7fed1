"""Options of the verbs `evaluate.py baseline` and `evaluate.py layers`; no torch before they are read."""

import argparse

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
    print(compare(f"{args.out}/probe", f"{args.out}/cnn"))


LAYERS = """\
Where is the information about the diagnosis lost? A linear probe on what each part of a checkpoint makes of a
photograph, from encoder and U-Net over the connector and the hidden states of the question's last token to the answer,
all learnt from the manifest's train split, tuned on val and judged on --split. Writes OUT/layers.json.
"""


def layers_main(argv: list[str]) -> None:
    """`evaluate.py layers`."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py layers", description=LAYERS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder")
    parser.add_argument("--data", metavar="M.jsonl", required=True, help="manifest with the splits train and val, too")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the photographs, where they have moved")
    parser.add_argument("--out", metavar="DIR", required=True, help="where layers.json goes")
    parser.add_argument("--split", default="test", choices=["test", "val"], help="photographs judged (%(default)s)")
    parser.add_argument("--learn", type=int, default=0, metavar="N", help="at most N training photographs (all)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="photographs at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of --learn and resampling (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)
    from mdf.errors import UserError

    if args.batch_size < 1 or args.learn < 0:
        raise UserError("--batch-size must be at least 1, --learn at least 0")
    from mdf.evaluation.layers import layers, table_of, verdict
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.predictor import load_model
    from mdf.records import read_manifest

    checkpoint = resolve_checkpoint(args.checkpoint)
    manifest = read_manifest(args.data, data_root=args.data_root)
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
