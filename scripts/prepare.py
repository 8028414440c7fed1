"""Data sets become manifests (M.jsonl); manifests are checked and looked at.

  python scripts/prepare.py list                                                 data sets, their licences and layouts
  python scripts/prepare.py hrf --root DIR --out hrf.jsonl --validate            a published data set
  python scripts/prepare.py folder --root DIR --out mine.jsonl                   sub-folders named by diagnosis
  python scripts/prepare.py table --root DIR --table T.csv --out mine.jsonl --columns diagnosis=LABEL text=REPORT
  python scripts/prepare.py phantom --count 100 --size 256 --seed 0 --out DIR    drawn photographs, nothing needed
  python scripts/prepare.py validate mine.jsonl                                  decode every image and mask
  python scripts/prepare.py show mine.jsonl -n 8 --out sheet.png                 a picture with photographs and labels

  python scripts/prepare.py merge A.jsonl B.jsonl --out both.jsonl               one of several, for data.weights
  python scripts/prepare.py shards mine.jsonl --out DIR                          WebDataset shards, for data.name=shards

Training reads a manifest with data.name=manifest data.manifest=mine.jsonl.
Photographs are never copied: the manifest holds paths relative to --root.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdf import cli
from mdf.checking import DATASETS

if TYPE_CHECKING:
    from mdf.records import Manifest


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="prepare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    split = argparse.ArgumentParser(add_help=False)
    split.add_argument("--val", type=float, default=0.1, help="share of patients for validation (%(default)s)")
    split.add_argument("--test", type=float, default=0.2, help="share of patients for the test (%(default)s)")
    split.add_argument("--seed", type=int, default=0, help="of the split and of phantoms (%(default)s)")
    shared = argparse.ArgumentParser(add_help=False, parents=[split], epilog="A split that the release has is kept.")
    shared.add_argument("--out", required=True, metavar="M.jsonl", help="manifest to write, with M.meta.json beside it")
    shared.add_argument("--root", required=True, metavar="DIR", help="folder of the release")
    shared.add_argument("--limit", type=int, default=0, help="photographs a split at the most; 0 = all (%(default)s)")
    shared.add_argument("--validate", action="store_true", help="also decode every image and mask")

    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--vocabulary", metavar="FILE", help="YAML, a line `their string: canonical_name` each")

    verbs.add_parser("list", help="data sets: what they hold, licence, citation, where to get them, layout")
    for name in DATASETS:
        verbs.add_parser(name, parents=[shared], help="a published data set, see `list`")
    verbs.add_parser("folder", parents=[shared, own], help="a folder of photographs, sub-folders are diagnoses")
    table = verbs.add_parser("table", parents=[shared, own], help="a CSV or TSV table with one photograph a row")
    table.add_argument("--table", required=True, metavar="FILE", help="CSV or TSV, the first line names the columns")
    table.add_argument(
        "--columns", nargs="+", default=[], metavar="FIELD=COLUMN",
        help="which column holds image, id, diagnosis, text, patient, study, eye, age, sex, camera, license, split, "
        "mask_NAME, text_KIND, grade_SCALE, extra_NAME; obvious names are guessed",
    )  # fmt: skip
    phantom = verbs.add_parser("phantom", parents=[split], help="draw phantom photographs")
    phantom.add_argument("--out", required=True, metavar="DIR", help="folder that is made")
    phantom.add_argument("--count", type=int, default=100, help="photographs (%(default)s)")
    phantom.add_argument("--size", type=int, default=256, help="side in pixels (%(default)s)")

    validate = verbs.add_parser("validate", help="decode every image and mask; duplicates and patients across splits")
    show = verbs.add_parser("show", help="draw a contact sheet")
    merge = verbs.add_parser("merge", help="several manifests become one")
    merge.add_argument("manifests", nargs="+", metavar="M.jsonl")
    merge.add_argument("--out", required=True, metavar="M.jsonl", help="manifest to write")
    shards = verbs.add_parser("shards", help="photographs become WebDataset shards (tar), for many nodes or few inodes")
    shards.add_argument("manifest", metavar="M.jsonl", help="or DIR, to compare shards with their SHA-256")
    shards.add_argument("--out", metavar="DIR", help="folder that is made")
    shards.add_argument("--megabytes", type=float, default=256, help="size of a shard at the most (%(default)s)")
    shards.add_argument("--data-root", metavar="DIR", help="where the photographs are (default: as M.meta.json says)")
    shards.add_argument(
        "--preprocess", metavar="CONFIG", help="decoded, cropped and scaled for this configuration instead of as files"
    )
    for verb in (validate, show):
        verb.add_argument("manifest", metavar="M.jsonl")
        verb.add_argument("--data-root", metavar="DIR", help="where the photographs are (default: as M.meta.json says)")
    validate.add_argument("--workers", type=int, default=0, help="threads; 0 = one a core (%(default)s)")
    show.add_argument("-n", type=int, default=4, help="photographs (%(default)s)")
    show.add_argument("--out", default="sheet.png", metavar="FILE.png", help="picture to write (%(default)s)")
    show.add_argument("--split", default="all", choices=("train", "val", "test", "all"), help="(%(default)s)")
    show.add_argument("--seed", type=int, default=0, help="draws the photographs (%(default)s)")
    show.add_argument("--masks", action="store_true", help="lay the masks over the photographs")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.verb == "list":
        from mdf.datasets.guide import text

        print(text())
    elif args.verb == "validate":
        from mdf.records import read_manifest

        validate(read_manifest(args.manifest, args.data_root), args.workers)
    elif args.verb == "show":
        show(args)
    elif args.verb == "merge":
        merge(args)
    elif args.verb == "shards":
        shards(args)
    else:
        prepare(args)


def prepare(args: argparse.Namespace) -> None:
    """A release becomes a manifest."""
    from mdf.checking import check_data
    from mdf.config import DataConfig
    from mdf.datasets import load
    from mdf.errors import UserError
    from mdf.records import write_manifest

    if args.verb == "phantom":
        cfg = DataConfig(root=args.out, count=args.count, size=args.size, val=args.val, test=args.test)
    else:
        columns = dict(word.partition("=")[::2] for word in getattr(args, "columns", []))
        if not all(columns.values()):
            raise UserError("--columns takes FIELD=COLUMN words, for example --columns image=FileName diagnosis=Label")
        cfg = DataConfig(
            name=args.verb, root=args.root, table=getattr(args, "table", None), columns=columns,
            vocabulary=getattr(args, "vocabulary", None), val=args.val, test=args.test, limit=args.limit,
        )  # fmt: skip
    if wrong := list(check_data(cfg, "data")):
        raise UserError("\n".join(w.replace("data.", "--") for w in wrong))
    manifest = load(cfg, args.seed)
    if args.verb == "phantom":
        print(f"wrote {args.out}")
        return
    split_seed = manifest.meta.get("split_seed")  # None where the release's own split was kept
    manifest = write_manifest(args.out, manifest.records, root=manifest.root, dataset=args.verb, split_seed=split_seed)
    print(f"wrote {args.out}")
    if args.validate:
        validate(manifest)


def validate(manifest: "Manifest", workers: int = 0) -> None:
    """Print what the files hold. Raises UserError with everything that has to be mended."""
    from mdf.datasets.validation import shorten
    from mdf.datasets.validation import validate as look
    from mdf.errors import UserError

    report = look(manifest, workers)
    print(report.text())
    if report.problems:
        lines = "\n".join(f"  {p}" for p in shorten(report.problems))
        raise UserError(f"{len(report.problems)} problems; mend the files or take them out of the manifest:\n{lines}")
    print("every image and mask can be read, and no photograph or patient is in two splits")


def show(args: argparse.Namespace) -> None:
    """A contact sheet of photographs that the seed draws."""
    import numpy as np

    from mdf.datasets.sheet import draw_sheet
    from mdf.errors import UserError
    from mdf.records import read_manifest

    manifest = read_manifest(args.manifest, args.data_root)
    records = manifest.split(args.split)
    if args.n < 1 or not records:
        raise UserError(f"nothing to show: -n {args.n}, {len(records)} photographs in --split {args.split}")
    if Path(args.out).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {args.out}: the picture's name ends in .png or .jpg")
    chosen = sorted(np.random.default_rng(args.seed).permutation(len(records))[: args.n])
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(manifest, [records[i] for i in chosen], masks=args.masks).save(args.out)
    print(f"wrote {args.out}")


def merge(args: argparse.Namespace) -> None:
    """Several manifests become one."""
    from mdf.datasets import summary
    from mdf.datasets.merge import merge
    from mdf.records import write_manifest

    merged = merge(args.manifests)
    write_manifest(args.out, merged.records, root=merged.root, dataset=merged.meta["dataset"])
    print(f"wrote {args.out}: {summary(merged.records)}")


def shards(args: argparse.Namespace) -> None:
    """Photographs become shards, or shards are compared with their SHA-256."""
    from mdf.datasets.shards import verify, write_shards
    from mdf.errors import UserError
    from mdf.records import read_manifest

    if Path(args.manifest).is_dir():
        print(f"{args.manifest}: {verify(Path(args.manifest))} photographs, every shard as it was written")
        return
    if not args.out or not args.megabytes > 0:
        raise UserError("shards needs --out DIR, and --megabytes above 0")
    prepare = None
    if args.preprocess:
        from mdf.training.stream import prepare_for

        prepare = prepare_for(args.preprocess)
    index = write_shards(
        read_manifest(args.manifest, args.data_root), Path(args.out), megabytes=args.megabytes, prepare=prepare
    )
    for split, written in index["splits"].items():
        print(f"{split}: {sum(s['count'] for s in written)} photographs in {len(written)} shards")
    print(f"wrote {args.out}; train with data.name=shards data.root={args.out}")


if __name__ == "__main__":
    cli.run(main)
