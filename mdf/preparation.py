"""The verbs of scripts/prepare.py: each does its work, prints what it wrote, and raises UserError for wrong input.

Their imports stand inside, so that a verb waits for no library that it does not use.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection

    from mdf.config import DataConfig
    from mdf.records import Manifest

Names = Sequence[str]


def keep(files: Names, path: str, option: str = "--out") -> None:
    """Raises UserError where writing `path` would replace one of `files`, which the command itself reads or writes."""
    if Path(path).resolve() in [Path(one).resolve() for one in files]:
        raise UserError(
            f"{option} {path}: the same command reads or writes that file, which would be lost; name a new one"
        )


def list_() -> None:
    """Print what is known of each data set."""
    from mdf.datasets.guide import text

    print(text())


def phantom(out: str, count: int, size: int, val: float, test: float, seed: int) -> None:
    """Draw phantom photographs into the folder `out`."""
    from mdf.config import DataConfig

    read(DataConfig(root=out, count=count, size=size, val=val, test=test), out, seed)
    print(f"wrote {out}")


def release(
    name: str, out: str, root: str, val: float, test: float, seed: int, limit: int, validated: bool,
    table: str | None = None, columns: Names = (), encoding: str = "utf-8", vocabulary: str | None = None,
    source: str | None = None,
) -> None:  # fmt: skip
    """The release of the data set `name` becomes the manifest `out`, its records of `source` where that is given."""
    from dataclasses import replace

    from mdf.config import DataConfig
    from mdf.datasets.table import read_columns
    from mdf.records import write_manifest

    keep([table] if table else [], out)
    cfg = DataConfig(
        name=name, root=root, table=table, columns=read_columns(list(columns)), encoding=encoding,
        vocabulary=vocabulary, val=val, test=test, limit=limit,
    )  # fmt: skip
    if source is not None and not source.strip():
        raise UserError("--source: empty; name the place that the photographs are from, such as a hospital")
    manifest = read(cfg, out, seed)
    records = [replace(r, source=source) for r in manifest.records] if source else manifest.records
    split_seed = manifest.meta.get("split_seed")  # None where the release's own split was kept
    split = manifest.meta["split"]
    manifest = write_manifest(
        out, records, root=manifest.root, dataset=name, split_seed=split_seed, split=split
    )  # fmt: skip
    print(f"wrote {out}")
    if validated:
        examine(manifest, page_beside(out))


def read(cfg: "DataConfig", out: str, seed: int) -> "Manifest":
    """The photographs of a release; what a Hugging Face data set keeps inside tables is written beside `out`."""
    from mdf.checking import check_data
    from mdf.datasets import load

    if wrong := list(check_data(cfg, "data")):
        raise UserError("\n".join(w.replace("data.", "--") for w in wrong))
    return load(cfg, seed, Path(f"{out.removesuffix('.jsonl')}_photographs"))


def validate(manifest: str, data_root: str | None, page: str | None, workers: int, accept: Names) -> None:
    """Look for what would spoil a training on a manifest."""
    from mdf.datasets.validation.report import check_names
    from mdf.records import read_manifest

    accepted, page = check_names(accept), page or page_beside(manifest)
    if Path(page).suffix.lower() != ".html":
        raise UserError(f"--page {page}: the page's name ends in .html")
    examine(read_manifest(manifest, data_root), page, workers, accepted)


def page_beside(manifest: str) -> str:
    return f"{manifest.removesuffix('.jsonl')}.validation.html"


def examine(manifest: "Manifest", page: str, workers: int = 0, accept: "Collection[str]" = ()) -> None:
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


def check(manifest: str, data_root: str | None, workers: int, out: str | None, eyes: str | None) -> None:
    """Write what can be told of each photograph of a manifest without a model, and a manifest with the `eyes`."""
    from mdf.datasets.assessment import assess_all, summary, table, with_eyes
    from mdf.files import write_text
    from mdf.records import read_manifest, write_manifest

    out = out or f"{manifest.removesuffix('.jsonl')}.check.tsv"
    keep([manifest], out)
    if eyes:
        keep([manifest, out], eyes, "--eyes")
    found = read_manifest(manifest, data_root)
    assessments = assess_all(found, workers)
    write_text(Path(out), table(assessments))
    print(f"{summary(assessments)}\nwrote {out}")
    if eyes:
        records, meta = with_eyes(assessments), found.meta
        told = sum(new is not old for new, old in zip(records, found.records, strict=True))
        write_manifest(
            eyes, records, root=found.root, dataset=meta.get("dataset") or Path(manifest).stem,
            release=meta.get("release"), split_seed=meta.get("split_seed"), split=meta.get("split"),
        )  # fmt: skip
        print(f"wrote {eyes}: {told} eyes filled in")


def split(
    manifest: str, data_root: str | None, out: str, val: float, test: float, seed: int, folds: int, fold: int | None,
    hold_out: Names, few_shot: int, draws: int, redraw: bool, patients_only: bool, workers: int,
) -> None:  # fmt: skip
    """A manifest becomes one with another split, or several."""
    from mdf.datasets import summary
    from mdf.datasets.resplit import Request, resplit
    from mdf.records import read_manifest, write_manifest

    if draws == 1 and (fold is not None or not folds):  # known before photographs are compared for minutes
        keep([manifest], out)
    found = read_manifest(manifest, data_root)
    request = Request(
        val, test, seed, folds, fold, tuple(hold_out), few_shot, draws, redraw, patients_only, workers
    )  # fmt: skip
    made = {
        f"{out.removesuffix('.jsonl')}{addition}.jsonl" if addition else out: (records, how)
        for addition, records, how in resplit(found, request)
    }
    for path in made:
        keep([manifest], path)
    for path, (records, how) in made.items():
        write_manifest(
            path, records, root=found.root, dataset=found.meta.get("dataset") or Path(manifest).stem,
            release=found.meta.get("release"), split_seed=how.get("seed"), split=how,
        )  # fmt: skip
        print(f"wrote {path}: {summary(records)}")


def show(
    manifest: str, data_root: str | None, n: int, out: str, split: str, seed: int, config: str | None,
    settings: Names, masks: bool,
) -> None:  # fmt: skip
    """`n` photographs that the seed draws: a contact sheet, and the text that a run trains on."""
    import numpy as np

    from mdf.datasets.sheet import draw_sheet
    from mdf.loading import load_for_manifest
    from mdf.records import read_manifest

    cfg = load_for_manifest(config, list(settings), manifest)
    found = read_manifest(manifest, data_root)
    records = found.split(split)
    if n < 1 or not records:
        raise UserError(f"nothing to show: -n {n}, {len(records)} photographs in --split {split}")
    if Path(out).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {out}: the picture's name ends in .png or .jpg")
    from mdf.preview import preview  # loads torch, which wrong input need not wait for

    chosen = [records[i] for i in sorted(np.random.default_rng(seed).permutation(len(records))[:n])]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(found, chosen, masks=masks).save(out)
    print(preview(cfg, found, chosen))
    print(f"\nwrote {out}")


def merge(manifests: Names, out: str) -> None:
    """Several manifests become one."""
    from mdf.datasets import summary
    from mdf.datasets.merge import merge as merged_of
    from mdf.records import write_manifest

    keep(manifests, out)
    merged = merged_of(manifests)
    write_manifest(
        out, merged.records, root=merged.root, dataset=merged.meta["dataset"], split=merged.meta.get("split")
    )
    print(f"wrote {out}: {summary(merged.records)}")


def shards(
    manifest: str, data_root: str | None, out: str | None, megabytes: float, preprocess: str | None
) -> None:  # fmt: skip
    """Photographs become shards, or shards are compared with their SHA-256."""
    if not Path(manifest).is_dir() and (not out or not megabytes > 0):
        raise UserError("shards needs --out DIR, and --megabytes above 0")
    from mdf.datasets.shards import verify, write_shards
    from mdf.records import read_manifest

    if Path(manifest).is_dir():
        print(f"{manifest}: {verify(Path(manifest))} photographs, every shard as it was written")
        return
    prepare = None
    if preprocess:
        from mdf.training.stream import prepare_for

        prepare = prepare_for(preprocess)
    index = write_shards(read_manifest(manifest, data_root), Path(str(out)), megabytes=megabytes, prepare=prepare)
    for name, written in index["splits"].items():
        print(f"{name}: {sum(s['count'] for s in written)} photographs in {len(written)} shards")
    print(f"wrote {out}; train with data.name=shards data.root={out} data.manifest=null")


def weights(what: Names, out: str | None, photograph: str | None, picture: str | None, interpolate: bool) -> None:
    """Released encoders: all of them, one, which a file is of, or a file checked, converted and looked at."""
    from mdf.models import weight_files, zoo, zoo_identify, zoo_report

    if not what:
        print(zoo_report.every())
        return
    if len(what) > 2:
        raise UserError(f"weights: {len(what)} words; give NAME, FILE, or NAME FILE")
    if len(what) == 1 and what[0] in zoo.releases() and not Path(what[0]).exists():
        print(zoo_report.row(zoo.named(what[0])))
        return
    content = weight_files.read(what[-1])
    if len(what) == 1:
        fits = zoo_identify.identify(content)
        if not fits:
            raise UserError(
                f"weights {what[0]}: unknown, no release of the table has this layout. It holds {content}; "
                "`prepare.py weights` lists the releases"
            )
        print(f"{what[0]}: {' or '.join(fits)}, by names and shapes of its tensors")
        if len(fits) > 1:
            print("\n\n".join(zoo_report.row(zoo.named(name)) for name in fits))
            print("one layout: only you can know which; go on with `prepare.py weights NAME FILE`")
            return
        what = [fits[0], what[0]]
    release = zoo.named(what[0])
    print(zoo_report.row(release))
    encoder = zoo_report.checked(release, content, interpolate=interpolate)
    print(zoo_report.loaded(encoder))
    target = Path(out or Path(what[1]).with_name(f"{release.name}.safetensors"))
    if content.metadata.get(zoo.RELEASE):
        print(f"{what[1]} is converted already")
    else:
        zoo_report.convert(release, encoder, target)
        print(f"wrote {target}: encoder.weights={target}")
    shown = Path(picture or target.with_name(f"{release.name}.png"))
    print(zoo_report.look(encoder, photograph, shown))
    print(f"wrote {shown}")
