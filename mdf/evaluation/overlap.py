"""Does the evaluation judge what the checkpoint was trained on? By name, by patient, by file and by what is shown."""

from collections.abc import Sequence
from pathlib import Path

from mdf.datasets.validation.files import look_through
from mdf.errors import UserError
from mdf.evaluation.transfer import copied
from mdf.records import FundusRecord, Manifest, read_manifest
from mdf.trained_on import TrainedOn, marks_of

KNOWN_BY_NAME = (
    "They are known by their names within a source: if they are from another place whose folder has the same name, "
    "make their manifest again with --source NAME (prepare.py folder, table, huggingface). "
)
SHOWN = 3  # photographs named in a message
UNKNOWN = "It is not known what this checkpoint was trained on: it may have seen these photographs or their patients."
BY_NAME = (
    "The photographs that this checkpoint was trained on are not at hand: names and patients are known again, copies "
    "under other names are not."
)
STAMP = "SOME OF THESE PHOTOGRAPHS WERE TRAINED ON: the figures are not those of unseen patients."
WORDS = {
    "photograph": "was trained on",
    "patient": "is of a patient that was trained on",
    "file": "is a file that was trained on, under another name",
    "near_duplicate": "shows the same as one that was trained on",
}


def training_manifests(checkpoint: Path) -> list[Manifest]:
    """What the run of a checkpoint read, where that still lies beside it: RUN/data.jsonl and RUN/data-STAGE.jsonl."""
    return [read_manifest(path) for path in sorted(checkpoint.resolve().parent.glob("data*.jsonl"))]


def find_overlap(
    records: Sequence[FundusRecord], manifest: Manifest, trained: TrainedOn, known: Sequence[Manifest] = ()
) -> dict[str, list[str]]:
    """{one of WORDS: ids} of the records that are in the train split of what a checkpoint saw; {} where none is.

    By names and patients from `trained` alone, or where that is empty (a checkpoint without trained_on.json) from the
    manifests `known`. Photographs that none of these holds are compared with those that they train on, byte by byte
    and by what they show: a set that is in one of them was split as a whole.
    """
    trained = whole(trained, known)
    found: dict[str, list[str]] = {name: [] for name in WORDS}
    listed = set()
    for record in records:
        photograph, patient = marks_of(record)
        name = "photograph" if photograph in trained.train else "patient" if patient in trained.train else None
        if name:
            found[name].append(record.id)
            listed.add(record.id)
    names = {(r.source, r.id) for m in known for r in m.records}
    strangers = [r for r in records if (r.source, r.id) not in names and r.id not in listed]
    learnt = [(m, r) for m in known for r in m.records if r.split == "train"]
    if strangers and learnt:
        places = {r.id: Path(manifest.path(r.image)).resolve() for r in strangers}
        same = copied(list(places.values()), [Path(m.path(r.image)).resolve() for m, r in learnt])
        found["file"] = [name for name, path in places.items() if path in same]
        there = [(m, r) for m, r in learnt if Path(m.path(r.image)).is_file()]
        alike = look_through([(manifest, r) for r in strangers] + there).groups
        mine = [i for group in alike if max(group) >= len(strangers) for i in group if i < len(strangers)]
        found["near_duplicate"] = [strangers[i].id for i in sorted(mine) if strangers[i].id not in found["file"]]
    return {name: ids for name, ids in found.items() if ids}


def whole(trained: TrainedOn, known: Sequence[Manifest]) -> TrainedOn:
    """What a checkpoint says of itself, or where it says nothing what the manifests of its run say."""
    return trained if trained.train else TrainedOn.of(r for m in known for r in m.records)


def chosen_by(records: Sequence[FundusRecord], trained: TrainedOn) -> int:
    """How many of the records are of a patient by whose photographs the checkpoint's step was chosen."""
    return sum(bool(set(marks_of(r)) & trained.val) for r in records)


def overlap_with(
    checkpoint: Path, records: Sequence[FundusRecord], manifest: Manifest, *, allow: bool = False
) -> dict[str, list[str]]:
    """What `find_overlap` finds for the checkpoint in a folder; says where nothing is known, and how many photographs
    are of patients by whom the checkpoint's step was chosen. Raises UserError where there is any that is not allowed.
    """
    trained, known = TrainedOn.read(checkpoint), training_manifests(checkpoint)
    if not known:
        print(BY_NAME if trained.train else UNKNOWN)
    trained = whole(trained, known)
    found = find_overlap(records, manifest, trained, known)
    if not allow:
        refuse_overlap(found, len(records))
    if chosen := chosen_by(records, trained):
        print(f"{chosen} of {len(records)} photographs are of patients by whom the checkpoint's step was chosen")
    return found


def refuse_overlap(found: dict[str, list[str]], count: int) -> None:
    """Raise UserError where there is any."""
    if not found:
        return
    total = sum(map(len, found.values()))
    lines = [
        f"{len(ids)}, each of which {WORDS[name]} ({', '.join(ids[:SHOWN])}{' …' if len(ids) > SHOWN else ''})"
        for name, ids in found.items()
    ]
    raise UserError(
        f"{total} of the {count} photographs cannot judge this checkpoint:\n  " + "\n  ".join(lines) + "\n"
        "Use the test split of the manifest that it was trained with (RUN/data.jsonl), or other patients. "
        + KNOWN_BY_NAME * bool(found.keys() & {"photograph", "patient"})
        + "With --allow-overlap they are judged all the same, and every page says so"
    )
