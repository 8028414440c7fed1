"""Data sets become manifests (M.jsonl); manifests are checked and looked at.

  python scripts/prepare.py list                                                 data sets, their licences and layouts
  python scripts/prepare.py hrf --root DIR --out hrf.jsonl --validate            a published data set
  python scripts/prepare.py folder --root DIR --out mine.jsonl                   sub-folders named by diagnosis
  python scripts/prepare.py table --root DIR --table T.csv --out mine.jsonl --columns text=REPORT
  python scripts/prepare.py huggingface --root OWNER/NAME --out mine.jsonl        a folder or a name on the hub
  python scripts/prepare.py flair --root FUNDUS --table DATAFRAMES --out flair.jsonl
  python scripts/prepare.py phantom --count 100 --size 256 --seed 0 --out DIR    drawn photographs, nothing needed
  python scripts/prepare.py validate mine.jsonl                                  look for what would spoil a training
  python scripts/prepare.py check mine.jsonl --out mine.tsv                      field, gradability, retina or not, eye
  python scripts/prepare.py split mine.jsonl --out folds.jsonl --folds 5         split anew, copies stay together
  python scripts/prepare.py show mine.jsonl -n 4 --config my_data                what a model will see and is scored on
  python scripts/prepare.py merge A.jsonl B.jsonl --out both.jsonl               one of several, for data.weights
  python scripts/prepare.py shards mine.jsonl --out DIR                          WebDataset shards, for data.name=shards

Training reads a manifest with data.name=manifest data.manifest=mine.jsonl.
Photographs are never copied: the manifest holds paths relative to --root.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdf import cli
from mdf.checking import DATASETS, OWN_WORDS

if TYPE_CHECKING:
    from collections.abc import Collection

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
        parents = [shared, own] if name in OWN_WORDS else [shared]
        verbs.add_parser(name, parents=parents, help="a published data set, see `list`")
    verbs.add_parser("folder", parents=[shared, own], help="a folder of photographs, sub-folders are diagnoses")
    table = verbs.add_parser("table", parents=[shared, own], help="a table with one photograph a row")
    table.add_argument("--table", required=True, metavar="FILE", help="CSV, TSV, JSON lines or Parquet")
    table.add_argument("--encoding", default="utf-8", help="of a text file, such as gb18030 (%(default)s)")
    hub = verbs.add_parser("huggingface", parents=[shared, own], help="a folder or hub name for the library `datasets`")
    for verb in (table, hub):
        verb.add_argument(
            "--columns", nargs="+", default=[], metavar="FIELD=COLUMN",
            help="which column holds image, id, diagnosis, text, patient, study, eye, age, sex, camera, license, "
            "split, mask_NAME, text_KIND, grade_SCALE, extra_NAME, or a YAML file of such lines; others are guessed",
        )  # fmt: skip
    flair = verbs.add_parser("flair", parents=[shared, own], help="the 38 sets of FLAIR by its own tables")
    flair.add_argument("--table", required=True, metavar="FILE|DIR", help="one of FLAIR's CSV files, or their folder")
    phantom = verbs.add_parser("phantom", parents=[split], help="draw phantom photographs")
    phantom.add_argument("--out", required=True, metavar="DIR", help="folder that is made")
    phantom.add_argument("--count", type=int, default=100, help="photographs (%(default)s)")
    phantom.add_argument("--size", type=int, default=256, help="side in pixels (%(default)s)")

    validate = verbs.add_parser("validate", help="files, copies, patients across splits, labels, texts; an HTML page")
    check = verbs.add_parser("check", help="field of view, gradability, retina or not, and eye of every photograph")
    anew = verbs.add_parser("split", parents=[split], help="split a manifest anew: patients, folds, sources, few-shot")
    show = verbs.add_parser("show", help="a contact sheet, and as text the conversations that a model is trained on")
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
    for verb in (validate, check, anew, show):
        verb.add_argument("manifest", metavar="M.jsonl")
        verb.add_argument("--data-root", metavar="DIR", help="where the photographs are (default: as M.meta.json says)")
    for verb in (validate, check, anew):
        verb.add_argument("--workers", type=int, default=0, help="threads; 0 = one a core (%(default)s)")
    validate.add_argument("--accept", nargs="+", default=[], metavar="NAME", help="findings, by name, that may stay")
    validate.add_argument("--page", metavar="FILE.html", help="page to write (default: beside M.jsonl)")
    check.add_argument("--out", metavar="FILE.tsv", help="table to write (default: beside M.jsonl)")
    check.add_argument(
        "--eyes", metavar="NEW.jsonl", help="also a manifest with the eyes that were unknown, where told"
    )
    anew.add_argument("--out", required=True, metavar="NEW.jsonl", help="manifest to write")
    anew.add_argument("--folds", type=int, default=0, metavar="K", help="a fold is the test; all K, or --fold I")
    anew.add_argument("--fold", type=int, metavar="I", help="0 to K-1 (default: all, as NEW.fold0.jsonl, …)")
    anew.add_argument("--hold-out", nargs="+", default=[], metavar="SOURCE", help="these sources are the test")
    anew.add_argument("--few-shot", type=int, default=0, metavar="N", help="photographs a class to train on; 0 = all")
    anew.add_argument("--draws", type=int, default=1, metavar="D", help="few-shot subsets (%(default)s)")
    anew.add_argument("--redraw", action="store_true", help="even where the release has a split of its own")
    anew.add_argument("--patients-only", action="store_true", help="do not look for copies: no photograph is opened")
    show.add_argument("-n", type=int, default=4, help="photographs (%(default)s)")
    show.add_argument("--out", default="sheet.png", metavar="FILE.png", help="picture to write (%(default)s)")
    show.add_argument("--split", default="all", choices=("train", "val", "test", "all"), help="(%(default)s)")
    show.add_argument("--seed", type=int, default=0, help="draws the photographs (%(default)s)")
    show.add_argument("--config", metavar="FILE", help="the run's configuration (default: quickstart)")
    show.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="settings on top, as for train.py")
    show.add_argument("--masks", action="store_true", help="lay the masks over the photographs")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.verb == "list":
        from mdf.datasets.guide import text

        print(text())
    elif args.verb == "validate":
        from mdf.datasets.validation.report import check_names
        from mdf.records import read_manifest

        accept = check_names(args.accept)
        page = args.page or page_beside(args.manifest)
        validate(read_manifest(args.manifest, args.data_root), page, args.workers, accept)
    elif args.verb == "check":
        check(args)
    elif args.verb == "split":
        split_anew(args)
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
    from mdf.datasets.table import read_columns
    from mdf.errors import UserError
    from mdf.records import write_manifest

    if args.verb == "phantom":
        cfg = DataConfig(root=args.out, count=args.count, size=args.size, val=args.val, test=args.test)
    else:
        cfg = DataConfig(
            name=args.verb, root=args.root, table=getattr(args, "table", None),
            columns=read_columns(getattr(args, "columns", [])), encoding=getattr(args, "encoding", "utf-8"),
            vocabulary=getattr(args, "vocabulary", None), val=args.val, test=args.test, limit=args.limit,
        )  # fmt: skip
    if wrong := list(check_data(cfg, "data")):
        raise UserError("\n".join(w.replace("data.", "--") for w in wrong))
    # what a Hugging Face data set keeps inside tables is written beside the manifest
    manifest = load(cfg, args.seed, Path(f"{args.out.removesuffix('.jsonl')}_photographs"))
    if args.verb == "phantom":
        print(f"wrote {args.out}")
        return
    split_seed = manifest.meta.get("split_seed")  # None where the release's own split was kept
    split = manifest.meta["split"]
    manifest = write_manifest(
        args.out, manifest.records, root=manifest.root, dataset=args.verb, split_seed=split_seed, split=split
    )
    print(f"wrote {args.out}")
    if args.validate:
        validate(manifest, page_beside(args.out))


def page_beside(manifest: str) -> str:
    return f"{manifest.removesuffix('.jsonl')}.validation.html"


def validate(manifest: "Manifest", page: str, workers: int = 0, accept: "Collection[str]" = ()) -> None:
    """Print what was found and write the page. Raises UserError with everything that has to be mended or accepted."""
    from mdf.datasets.validation import validate as look
    from mdf.datasets.validation.page import write_page

    report = look(manifest, workers, accept)
    write_page(Path(page), manifest, report)
    print(report.text())
    print(f"wrote {page}: it shows photographs, keep it as the data")
    report.refuse()
    if not report.accepted:
        print("every image and mask can be read, and no photograph or patient is in two splits")


def check(args: argparse.Namespace) -> None:
    """A table of what can be told of each photograph without a model."""
    from mdf.datasets.assessment import assess_all, summary, table, with_eyes
    from mdf.errors import UserError
    from mdf.files import write_text
    from mdf.records import read_manifest, write_manifest

    if args.eyes and Path(args.eyes).resolve() == Path(args.manifest).resolve():
        raise UserError(f"--eyes {args.eyes}: that is the manifest itself; name a new one")
    manifest = read_manifest(args.manifest, args.data_root)
    assessments = assess_all(manifest, args.workers)
    out = args.out or f"{args.manifest.removesuffix('.jsonl')}.check.tsv"
    write_text(Path(out), table(assessments))
    print(f"{summary(assessments)}\nwrote {out}")
    if args.eyes:
        records = with_eyes(assessments)
        told = sum(new is not old for new, old in zip(records, manifest.records, strict=True))
        write_manifest(
            args.eyes, records, root=manifest.root, dataset=manifest.meta.get("dataset") or Path(args.manifest).stem,
            release=manifest.meta.get("release"), split_seed=manifest.meta.get("split_seed"),
            split=manifest.meta.get("split"),
        )  # fmt: skip
        print(f"wrote {args.eyes}: {told} eyes filled in")


def split_anew(args: argparse.Namespace) -> None:
    """A manifest becomes one with another split, or several."""
    from mdf.datasets import summary
    from mdf.datasets.resplit import Request, resplit
    from mdf.records import read_manifest, write_manifest

    manifest = read_manifest(args.manifest, args.data_root)
    request = Request(
        args.val, args.test, args.seed, args.folds, args.fold, tuple(args.hold_out),
        args.few_shot, args.draws, args.redraw, args.patients_only, args.workers,
    )  # fmt: skip
    for addition, records, split in resplit(manifest, request):
        out = f"{args.out.removesuffix('.jsonl')}{addition}.jsonl" if addition else args.out
        write_manifest(
            out, records, root=manifest.root, dataset=manifest.meta.get("dataset") or Path(args.manifest).stem,
            release=manifest.meta.get("release"), split_seed=split.get("seed"), split=split,
        )  # fmt: skip
        print(f"wrote {out}: {summary(records)}")


def show(args: argparse.Namespace) -> None:
    """Photographs that the seed draws: a contact sheet, and the text that a run trains on."""
    import numpy as np

    from mdf.datasets.sheet import draw_sheet
    from mdf.errors import UserError
    from mdf.loading import load_for_manifest
    from mdf.records import read_manifest

    cfg = load_for_manifest(args.config, args.set, args.manifest)
    manifest = read_manifest(args.manifest, args.data_root)
    records = manifest.split(args.split)
    if args.n < 1 or not records:
        raise UserError(f"nothing to show: -n {args.n}, {len(records)} photographs in --split {args.split}")
    if Path(args.out).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {args.out}: the picture's name ends in .png or .jpg")
    from mdf.preview import preview  # loads torch, which wrong input need not wait for

    chosen = [records[i] for i in sorted(np.random.default_rng(args.seed).permutation(len(records))[: args.n])]
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(manifest, chosen, masks=args.masks).save(args.out)
    print(preview(cfg, manifest, chosen))
    print(f"\nwrote {args.out}")


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
