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
  python scripts/prepare.py weights [NAME] [FILE]                                released encoders: which, whole or not

Training reads a manifest with data.name=manifest data.manifest=mine.jsonl.
Photographs are never copied: the manifest holds paths relative to --root.
"""

import argparse
from collections.abc import Callable
from functools import partial

from mdf import cli
from mdf.checking import DATASETS, OWN_WORDS


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
    shared.add_argument("--validate", action="store_true", dest="validated", help="also decode every image and mask")

    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--vocabulary", metavar="FILE", help="YAML, a line `their string: canonical_name` each")

    verbs.add_parser("list", help="data sets: what they hold, licence, citation, where to get them, layout")
    for name in DATASETS:
        parents = [shared, own] if name in OWN_WORDS else [shared]
        verbs.add_parser(name, parents=parents, help="a published data set, see `list`")
    folder = verbs.add_parser(
        "folder", parents=[shared, own], help="a folder of photographs, sub-folders are diagnoses"
    )
    table = verbs.add_parser("table", parents=[shared, own], help="a table with one photograph a row")
    table.add_argument("--table", required=True, metavar="FILE", help="CSV, TSV, JSON lines or Parquet")
    table.add_argument("--encoding", default="utf-8", help="of a text file, such as gb18030 (%(default)s)")
    hub = verbs.add_parser("huggingface", parents=[shared, own], help="a folder or hub name for the library `datasets`")
    for verb in (folder, table, hub):
        verb.add_argument(
            "--source", metavar="NAME",
            help="where the photographs are from, such as a hospital: names of photographs and patients hold within it "
            "(default: the name of the folder or data set)",
        )  # fmt: skip
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
    weights = verbs.add_parser(
        "weights", help="released encoders: list them, tell which a file is, check and convert it"
    )
    weights.add_argument(
        "what",
        nargs="*",
        metavar="NAME|FILE",
        help="nothing: all releases; NAME: one; FILE: which it is; NAME FILE: check",
    )
    weights.add_argument(
        "--out", metavar="OUT.safetensors", help="file to write (default: NAME.safetensors beside FILE)"
    )
    weights.add_argument("--photograph", metavar="IMAGE", help="show features on it (default: a drawn one)")
    weights.add_argument("--picture", metavar="FILE.png", help="picture to write (default: NAME.png beside OUT)")
    weights.add_argument(
        "--interpolate", action="store_true", help="position embeddings of another side, to the release's"
    )
    for verb in (validate, check, anew, show):
        verb.add_argument("manifest", metavar="M.jsonl")
        verb.add_argument("--data-root", metavar="DIR", help="where the photographs are (default: as M.meta.json says)")
    for verb in (validate, check, anew):
        verb.add_argument("--workers", type=int, default=0, help="threads; 0 = one a core (%(default)s)")
    validate.add_argument("--accept", nargs="+", default=[], metavar="NAME", help="findings, by name, that may stay")
    validate.add_argument("--page", metavar="FILE.html", help="page to write (default: beside M.jsonl)")
    check.add_argument("--out", metavar="FILE.tsv", help="table to write (default: beside M.jsonl)")
    check.add_argument("--eyes", metavar="NEW.jsonl", help="also a manifest with eyes that were unknown, where told")
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
    show.add_argument(
        "--set",
        nargs="+",
        default=[],
        dest="settings",
        metavar="key.sub=value",
        help="settings on top, as for train.py",
    )
    show.add_argument("--masks", action="store_true", help="lay the masks over the photographs")
    return top


def main(argv: list[str] | None = None) -> None:
    args = vars(parser().parse_args(argv))
    verb = args.pop("verb")
    from mdf import preparation

    verbs: dict[str, Callable[..., None]] = {
        "list": preparation.list_,
        "phantom": preparation.phantom,
        "validate": preparation.validate,
        "check": preparation.check,
        "split": preparation.split,
        "show": preparation.show,
        "merge": preparation.merge,
        "shards": preparation.shards,
        "weights": preparation.weights,
    }
    verbs.get(verb, partial(preparation.release, verb))(**args)


if __name__ == "__main__":
    cli.run(main)
