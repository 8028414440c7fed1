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
        "--weights", metavar="W", default="efficientnet-lite0-imagenet", help="open_clip tag, file or bundled name"
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
    baseline(
        load_embedder(None, args.encoder, args.weights, args.size, args.device),
        manifest,
        args.out,
        recipe=recipe,
        classes=[c for word in args.classes for c in word.split(",") if c],
        name=f"{args.encoder} {args.weights} {args.size} px",
        seed=args.seed,
    )
    print(compare(f"{args.out}/probe", f"{args.out}/cnn"))
