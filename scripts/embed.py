"""Embed photographs into a Parquet file, and find similar ones in it by photograph or by words."""

import argparse
import sys
from typing import Any

from mdf import cli
from mdf.evaluation.tasks import FEATURES

EPILOG = """\
examples:
  python scripts/embed.py --checkpoint runs/odir5k --data odir5k.jsonl --out odir5k.parquet
  accelerate launch --num_processes 4 scripts/embed.py --checkpoint runs/odir5k --data PHOTOGRAPHS --out mine.parquet
  python scripts/embed.py --checkpoint runs/odir5k --data PHOTOGRAPHS --out mine.parquet --shard 1/4   one of four
  python scripts/embed.py --encoder fundus-lite0 --weights efficientnet-lite0-imagenet --size 224 --features pooled \\
      --data odir5k.jsonl --out imagenet.parquet
  python scripts/embed.py search --checkpoint runs/odir5k --index odir5k.parquet --image eye.jpg --sheet found.png
  python scripts/embed.py search --checkpoint runs/odir5k --index odir5k.parquet --text "drusen in the macula"

The columns are id, image, vector (a unit vector) and model (a hash). A stopped job goes on where it was when the same
command is given again. Photographs that cannot be read are left out and listed. An index is searched with the model
that made it, any other is refused. Exit codes: 0 done, 1 some photographs cannot be read, 2 wrong input, 143 stopped.
"""


def load(args: argparse.Namespace) -> Any:
    """The Embedder that the words ask for."""
    from mdf.inference.gate import resolve_checkpoint

    cli.check_encoder(args)
    checkpoint = resolve_checkpoint(args.checkpoint) if args.checkpoint else None
    from mdf.inference.predictor import load_embedder

    return load_embedder(checkpoint, args.encoder, args.weights, args.size, args.device)


def search_main(argv: list[str]) -> None:
    """`embed.py search`."""
    parser = argparse.ArgumentParser(
        prog="embed.py search", description="Find similar photographs in an index that embed.py wrote."
    )
    cli.add_encoder(parser)
    parser.add_argument("--index", metavar="F.parquet", required=True, help="that embed.py wrote with --out")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--image", metavar="FILE", help="a photograph: what looks like it?")
    query.add_argument("--text", metavar="WORDS", help="words: what do they describe?")
    parser.add_argument("-k", type=int, default=9, metavar="N", help="photographs to find (%(default)s)")
    parser.add_argument("--sheet", metavar="FILE.png", help="contact sheet to write")
    parser.add_argument("--data", metavar="M.jsonl", help="manifest whose diagnoses are shown")
    parser.add_argument("--force", action="store_true", help="also for a picture that does not look like a retina")
    args = parser.parse_args(argv)
    from pathlib import Path

    from mdf.errors import UserError
    from mdf.inference.gate import gate
    from mdf.records import Manifest, read_manifest

    if args.k < 1 or (args.text is not None and not args.text.strip()):
        raise UserError("-k must be at least 1" if args.k < 1 else "--text is empty; say what to look for")
    image, _, warning = gate(args.image, force=args.force) if args.image else (None, None, None)
    if warning:
        print(warning)
    known = {r.id: r for r in read_manifest(args.data, data_root=args.data_root).records} if args.data else {}
    from mdf.inference.index import Search

    index = Search(args.index, load(args))
    hits = index.by_words(args.text, args.k) if image is None else index.by_photograph(image, args.k)
    for rank, hit in enumerate(hits, 1):
        record = known.get(hit.id)
        print(f"{rank:>3}  {hit.similarity:+.3f}  {hit.id}", *((record.diagnosis or ()) if record else ()))
    if args.sheet:
        from mdf.inference.search_sheet import draw_search

        root = Path(args.data_root) if args.data_root else index.root
        sheet = draw_search(args.text if image is None else image, hits, Manifest((), root), known)
        Path(args.sheet).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.sheet, format="PNG")
        print(f"contact sheet: {args.sheet}")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["search"]:
        search_main(argv[1:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_encoder(parser)
    parser.add_argument(
        "--data",
        metavar="M.jsonl|FOLDER|LIST.txt",
        required=True,
        help="a manifest, a folder of photographs, or a list of their paths",
    )
    parser.add_argument("--out", metavar="F.parquet", required=True, help="file to write")
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default=FEATURES[0],
        help="the unit embedding (default), the mean of the patch tokens before the projection, or mean and maximum of "
        "them over the photograph and its mirror image",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photographs at once (%(default)s)")
    cli.add_batch(parser)
    args = parser.parse_args(argv)
    from mdf.errors import UserError

    if args.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    from mdf.inference.batch import SHOWN, choose_shard, share_machine
    from mdf.inference.index import Index
    from mdf.inference.worklist import read_photographs

    shard = choose_shard(args.shard)
    args.device = share_machine(args.device)
    photographs = read_photographs(args.data, args.data_root)
    index = Index(load(args), photographs, args.out, args.features)
    outcome = index.make(shard, batch_size=args.batch_size, retry=args.retry)
    bad = index.bad()
    broken = [line for line in outcome.mine.values() if "rows" not in line]
    if outcome.stopped:
        print("stopped: give the same command to go on")
    elif broken:
        print(f"{len(broken)} parts broke ({broken[0]['reason']}); the same command tries them again")
    elif outcome.whole:
        print(f"{len(photographs.records) - len(bad)} photographs in {args.out}, model {index.plan['model']}")
    else:
        print(f"share {shard} is done; other parts are missing, the last process joins them")
    for why in list(bad.values())[:SHOWN]:
        print(f"  failed: {why}")
    if bad:
        print(f"{len(bad)} photographs cannot be read, see {index.parts}; --retry tries them again")
    return outcome.code


if __name__ == "__main__":
    cli.run(main)
