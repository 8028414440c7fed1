"""Looks at a manifest before anything is trained on it: files, copies, splits, labels, texts, values, shortcuts.

report.py names every finding; the other files find them; page.py shows them.
"""

from collections import Counter
from collections.abc import Collection

from mdf.datasets import summary
from mdf.datasets.splits import assignment_sha256
from mdf.datasets.validation import contradictions, texts, values
from mdf.datasets.validation.duplicates import EMPTY
from mdf.datasets.validation.files import Seen, look_at_all
from mdf.datasets.validation.report import CHECKS, Case, Issue, Report
from mdf.datasets.validation.shortcuts import shortcut_cases, shortcuts
from mdf.records import SPLITS, Manifest


def validate(manifest: Manifest, workers: int = 0, accept: Collection[str] = ()) -> Report:
    """Decode every photograph and mask with `workers` threads (0 = one a core) and judge what the manifest says.

    Findings named in `accept` do not count as problems. Progress goes to stderr.
    """
    records, seen = manifest.records, look_at_all(manifest, workers)
    found = file_findings(manifest, seen)
    groups = [[records[i] for i in group] for group in seen.groups]
    exact = [len({seen.looks[i].sha256 for i in group}) == 1 for group in seen.groups]
    graded = contradictions.grades(records)
    sources = shortcuts(records, seen.looks)
    found |= contradictions.duplicates(groups, exact) | shortcut_cases(sources) | texts.texts(records)
    found |= {
        "patient-across-splits": contradictions.patients_across_splits(records),
        "contradictory-label": contradictions.contradictory_labels(records),
        "normal-with-finding": contradictions.normal_with_finding(records),
        "eye-labels": contradictions.eye_labels(records),
        "patient-flags": contradictions.patient_flags(records),
        "grade-against-label": graded["grade-against-label"],
        "outside-picture": values.outside_picture(records, seen.looks),
        "split-changed": split_changed(manifest),
    }
    found["implausible-value"] += graded["implausible-value"] + values.implausible_values(records)
    issues = tuple(Issue(name, tuple(found[name])) for name in CHECKS if found.get(name))
    return Report(counts(manifest), issues, tuple(sources), frozenset(accept))


def file_findings(manifest: Manifest, seen: Seen) -> dict[str, list[Case]]:
    """What the look at the files itself found, by name."""
    found: dict[str, list[Case]] = {"implausible-value": []}
    for r, look in zip(manifest.records, seen.looks, strict=True):
        for name, text in look.errors:
            found.setdefault(name, []).append(Case(f"{r.id}: {text}", (r.id,)))
    plain = tuple(
        r.id for r, look in zip(manifest.records, seen.looks, strict=True) if look.sha256 and look.detail < EMPTY
    )
    unknown = tuple(r.id for r in manifest.records if r.patient is None)
    for name, ids in (("too-plain", plain), ("no-patient", unknown)):
        found[name] = [Case(texts.some(ids), ids)] if ids else []
    return found


def split_changed(manifest: Manifest) -> list[Case]:
    said = manifest.meta.get("split")
    if not isinstance(said, dict) or said.get("sha256") in (None, assignment_sha256(manifest.records)):
        return []
    return [Case(f"it was made as {said.get('kind')}, then photographs or their splits were changed")]


def counts(manifest: Manifest) -> str:
    """Photographs by split and diagnosis, by source, and the kinds of masks and texts, as a table."""
    rows = Counter((name, r.split) for r in manifest.records for name in r.diagnosis or ("(no diagnosis)",))
    splits = [s for s in (*SPLITS, None) if any(r.split == s for r in manifest.records)]
    names = sorted({name for name, _ in rows}, key=lambda n: (-sum(rows[n, s] for s in splits), n))
    width = max(len(n) for n in names)
    lines = [summary(manifest.records), " " * width + "".join(f"{s or 'no split':>10}" for s in splits)]
    lines += [f"{n:{width}}" + "".join(f"{rows[n, s]:10}" for s in splits) for n in names]
    for what, table in (
        ("masks", Counter(name for r in manifest.records for name in r.masks)),
        ("texts", Counter(kind for r in manifest.records for kind in r.texts)),
        ("sources", Counter(r.source or "(none)" for r in manifest.records)),
    ):
        lines += [f"{what}: {', '.join(f'{n} {c}' for n, c in table.most_common()) or 'none'}"]
    return "\n".join(lines)
