"""From one data set to another: which classes both know, that they share no photograph and no patient, and the table.

Shapes: none; this is about names and files. Probes and few shots themselves: `mdf.evaluation.embedding_tasks`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mdf.errors import UserError
from mdf.evaluation.compare import cell, flatten, read_metrics
from mdf.evaluation.few_shot import METHODS, SHOTS
from mdf.evaluation.parse import to_candidate
from mdf.files import sha256, write_text
from mdf.records import FundusRecord, Manifest, group_of
from mdf.vocabulary import kind

LEARNT = ("train", "val")  # splits that a probe reads: the second chooses its regularisation
SHOWN = 3  # photographs named in a message

# -- two manifests ----------------------------------------------------------------------------------------------------


def learnt_records(manifest: Manifest) -> list[FundusRecord]:
    """What a probe and few shots learn from."""
    return [r for r in manifest.records if r.split in LEARNT]


def names_of(records: Iterable[FundusRecord], candidates: Sequence[str]) -> set[str]:
    """The diagnoses of the records, each as the candidate that it is a kind of where there is one."""
    found = {n for r in records for n in r.diagnosis or () if kind(n) == "diagnosis"}
    return {to_candidate(n, candidates) or n for n in found}


def common_classes(
    judged: Sequence[FundusRecord], learnt: Sequence[FundusRecord], candidates: Sequence[str]
) -> tuple[str, ...]:
    """The classes that both know, the checkpoint's candidates first; what only one of them knows is said and left out.

    Where one side is finer than the other, the coarser name is the class: the glaucoma of one and the normal-tension
    glaucoma of the other are both glaucoma. Raises UserError where fewer than two are left.
    """
    there, here = names_of(judged, candidates), names_of(learnt, candidates)
    both = {to_candidate(n, sorted(here)) for n in there} | {to_candidate(n, sorted(there)) for n in here}
    classes = tuple(n for n in candidates if n in both) + tuple(sorted(n for n in both if n and n not in candidates))
    for side, names in (("the photographs judged", there), ("those to learn from", here)):
        lonely = sorted(n for n in names if to_candidate(n, classes) is None)
        if lonely:
            print(f"left out, since only {side} have them: {', '.join(lonely)}")
    if len(classes) < 2:
        raise UserError(
            f"--learn-from: a probe needs two classes that both manifests know, there are {len(classes)} "
            f"({', '.join(classes) or 'none'}). Judged are {', '.join(sorted(there)) or 'none'}; to learn from there "
            f"are {', '.join(sorted(here)) or 'none'}. --classes names broader ones"
        )
    return classes


def of_shared_patients(judged: Sequence[FundusRecord], learnt: Sequence[FundusRecord]) -> list[str]:
    """Ids of the judged photographs whose patient is known, and learnt from."""
    groups = {group_of(r) for r in learnt}
    return [r.id for r in judged if r.patient and group_of(r) in groups]


def refuse_torn_patients(judged: Sequence[FundusRecord], learnt: Sequence[FundusRecord]) -> None:
    """Raise UserError where a patient of one manifest is learnt from and judged."""
    if shared := of_shared_patients(judged, learnt):
        raise UserError(
            f"{len(shared)} of the {len(judged)} photographs judged are of a patient of the train or val split "
            f"({shared[0]} …): a probe that learns from those knows the patient. `prepare.py split` keeps patients "
            "together"
        )


def refuse_shared(
    judged: Sequence[FundusRecord], manifest: Manifest, learnt: Sequence[FundusRecord], source: Manifest
) -> None:
    """Raise UserError where a photograph or a patient is learnt from and judged: the same patient of the same source,
    the same file, or two files with the same bytes. Copies that were written anew are not found; `prepare.py validate`
    finds them in a merged manifest.
    """
    patients = of_shared_patients(judged, learnt)
    places = [Path(manifest.path(r.image)).resolve() for r in judged]
    copies = copied(places, [source.path(r.image).resolve() for r in learnt])
    files = [r.id for r, path in zip(judged, places, strict=True) if path in copies]
    for found, what in ((patients, "are of a patient"), (files, "are a photograph")):
        if found:
            shown = ", ".join(found[:SHOWN]) + (" …" if len(found) > SHOWN else "")
            raise UserError(
                f"--learn-from: {len(found)} of the {len(judged)} photographs judged {what} of its train or val split "
                f"({shown}); what is learnt from cannot be judged. Judge another --split, or take them out of one "
                "manifest; patients are the same where `patient` and `source` are"
            )


def copied(paths: Sequence[Path], others: Sequence[Path]) -> set[Path]:
    """Which of `paths` are among `others`, or hold the same bytes as one of them.

    Only files of one size are read. A file that is gone is no copy: reading it will be the error.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        if path.is_file():
            by_size[path.stat().st_size].append(path)
    known: dict[Path, str] = {}

    def content(path: Path) -> str:
        if path not in known:
            known[path] = sha256(path)
        return known[path]

    here = [path for path in paths if path.is_file()]
    alike = {path: by_size.get(path.stat().st_size, []) for path in here}
    return {p for p, same in alike.items() if p in same or any(content(p) == content(other) for other in same)}


# -- the table --------------------------------------------------------------------------------------------------------

MEASURES = (
    ("balanced accuracy", ".balanced_accuracy"),
    ("macro AUROC", ".macro_auroc"),
    ("R@1", "_r1"),
    ("mAP", "_map"),
)


def columns(method: str) -> list[tuple[str, str]]:
    """(title, where it stands in metrics.json) of every task; `method` is that of the few shots."""
    return [
        ("zero-shot, names", "zero_shot.names"),
        ("zero-shot, described", "zero_shot.described"),
        ("probe", "probe"),
        *((f"few-shot, k={k}", f"few_shot.shots_{k}.{method}") for k in SHOTS),
        ("image→text", "retrieval.image_to_text"),
        ("image→image", "retrieval.image_to_image"),
    ]


def chance(flat: dict[str, object], measure: str) -> str:
    """What guessing reaches: one over the classes; 0.5; of R@1, from image to text, one over the captions."""
    counts = {
        "balanced accuracy": ("zero_shot.classes", "probe.classes", "few_shot.classes"),
        "R@1": ("retrieval.captions",),
    }
    if measure == "macro AUROC":
        return "0.5"
    found = [flat[name] for name in counts.get(measure, ()) if isinstance(flat.get(name), int)]
    return f"{1 / int(str(found[0])):.3f}" if found else "-"


def transfer(folders: Sequence[str | Path], *, method: str = "clap", out: str | Path | None = None) -> str:
    """One Markdown table of several evaluations: a row a data set and measure, a column a task, `-` where it was not
    evaluated; below it what each row is of. `out` is a file to write it to.

    Raises UserError for a folder without metrics.json or without any of the tasks, and for an unknown `method`.
    """
    if method not in METHODS:
        raise UserError(f"--few-shot: unknown {method}; choose from {', '.join(METHODS)}")
    found = [flatten(read_metrics(folder)) for folder in folders]
    titles = [str(flat.get("dataset") or Path(folder).name) for flat, folder in zip(found, folders, strict=True)]
    twice = Counter(titles)
    titles = [f"{t} ({Path(f).name})" if twice[t] > 1 else t for t, f in zip(titles, folders, strict=True)]
    used = [(title, path) for title, path in columns(method) if any(cells(flat, path) for flat in found)]
    lines = [["data set", "n", "learnt from", "measure", "chance", *(title for title, _ in used)]]
    notes = []
    for title, flat, folder in zip(titles, found, folders, strict=True):
        rows = [(name, [cell(flat, path + end) for _, path in used]) for name, end in MEASURES]
        rows = [(name, row) for name, row in rows if set(row) - {"-"}]
        if not rows:
            raise UserError(f"{folder}: neither zero_shot, probe, few_shot nor retrieval was evaluated there")
        learnt = learnt_from(flat)
        for name, row in rows:
            tasks = ("retrieval",) if name in ("R@1", "mAP") else ("zero_shot", "probe", "few_shot")
            n = next(str(flat[f"{task}.n"]) for task in tasks if f"{task}.n" in flat)
            lines.append([title, n, learnt, name, chance(flat, name), *row])
        notes.append(note(title, flat, folder))
    lines.insert(1, ["---"] * len(lines[0]))
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text += f"\n\n95 % intervals over patients in brackets; few shots: {method}, mean of five draws.\n"
    text += "".join(f"\n- {line}" for line in notes) + "\n"
    if out is not None:
        write_text(Path(out), text)
    return text


def cells(flat: dict[str, object], path: str) -> bool:
    """Whether any measure of a task was evaluated."""
    return any(flat.get(path + end) is not None for _, end in MEASURES)


def learnt_from(flat: dict[str, object]) -> str:
    """The data set that probe and few shots learnt from, - where neither was evaluated."""
    if not any(name.startswith(("probe.", "few_shot.")) for name in flat):
        return "-"
    return str(flat.get("learnt_from.dataset") or ("folds" if "probe.folds" in flat else "itself"))


def note(title: str, flat: dict[str, object], folder: str | Path) -> str:
    """What a row is of: photographs, classes, what was never learnt, checkpoint, folder."""

    def listed(name: str) -> str:
        value = flat.get(name)
        return ", ".join(map(str, value)) if isinstance(value, list) and value else ""

    parts = [f"{flat.get('n')} photographs" + (f" (split {listed('splits')})" if listed("splits") else "")]
    if listed("classes"):
        parts.append(f"classes {listed('classes')}")
    if missing := listed("probe.unlearnt") or listed("few_shot.unlearnt"):
        parts.append(f"without a photograph to learn from: {missing}")
    return f"{title}: {'; '.join(parts)}; checkpoint {flat.get('checkpoint')}; from {folder}"
