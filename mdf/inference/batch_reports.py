"""Draft reports of many photographs: an item of batch.py a visit, of one photograph or of both eyes of a patient.

A photograph that cannot be read or is no retina is listed with its reason and never stops the rest: of a pair the other
eye is reported alone. OUT/reports/ holds the reports, OUT/index.html and index.csv what came of them (summary.py).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdf import __version__
from mdf.errors import UserError
from mdf.files import sha256
from mdf.inference.batch import DONE, FAILED, REFUSED, Ledger, Line, Outcome, Shard, left, read_lines, work_through
from mdf.inference.draft import draft
from mdf.inference.gate import NoRetina
from mdf.inference.predictor import Photograph, Predictor
from mdf.inference.report import EyeReport
from mdf.inference.sides import Side
from mdf.inference.worklist import Visit, check_name, visits
from mdf.records import FundusRecord, Manifest

REPORTS = "reports"  # folder of the reports in OUT


@dataclass(frozen=True)
class Bad:
    """A photograph without a report."""

    record: FundusRecord
    status: str
    reason: str

    @property
    def line(self) -> Line:
        return {"photograph": self.record.id, "status": self.status, "reason": self.reason}


def plan(
    checkpoint: Path,
    manifest: Manifest,
    formats: Sequence[str],
    rules: str,
    eye: Side | None,
    force: bool,
    maps: bool = False,
) -> dict[str, Any]:
    """Everything that decides what the reports in a folder are, for its Ledger."""
    return {
        "made": "reports",
        "mdf": __version__,
        "checkpoint": digest(checkpoint),
        "photographs": str(manifest.root),
        "format": ",".join(formats),
        "rules": rules,
        "eye": eye,
        "force": force,
        **({"maps": True} if maps else {}),
    }


def digest(checkpoint: Path) -> str:
    """The run's name and 16 hexadecimal digits of all of a checkpoint's files that answers depend on."""
    total = hashlib.sha256()
    for file in sorted(checkpoint.rglob("*")):
        name = file.relative_to(checkpoint)
        if file.is_file() and name.parts[0] != "trainer_state":
            total.update(f"{name.as_posix()} {sha256(file)}\n".encode())
    folder = checkpoint.resolve()
    run = folder.parent.name if folder.name in ("best", "last") else folder.name
    return f"{run} {total.hexdigest()[:16]}"


class BatchReports:
    """The reports of the photographs of `manifest` in the folder `out`; arguments as of `plan`."""

    predictor: Predictor
    before: dict[str, Line]  # what came of the visits in earlier commands

    def __init__(
        self,
        checkpoint: Path,
        manifest: Manifest,
        out: str | Path,
        *,
        formats: Sequence[str],
        rules: str,
        eye: Side | None = None,
        force: bool = False,
        maps: bool = False,
        shard: Shard | None = None,
    ):
        """Raises UserError where `out` holds reports that were made otherwise; no model is loaded before that."""
        if eye and any(record.eye for record in manifest.records):
            raise UserError("the manifest says which eye a photograph shows; leave out --eye")
        self.manifest, self.out, self.formats = manifest, Path(out), list(formats)
        self.rules, self.eye, self.force, self.maps = rules, eye, force, maps
        self.visits = visits(manifest.records)
        self.ledger = Ledger(out, plan(checkpoint, manifest, formats, rules, eye, force, maps), shard)
        self.ledger.begin(len(self.visits))

    def make(self, load: Callable[[], Predictor], *, retry: bool = False) -> Outcome:
        """Do this process's share of what is left; `retry` does again what failed or was refused, since a person may
        have mended it. `load` gives the predictor.
        """
        self.before = read_lines(self.out)

        def again(line: Line) -> bool:
            return retry and line["status"] != DONE

        if left(self.visits, self.ledger, again):
            self.predictor = load()
        return work_through(
            self.visits,
            self.ledger,
            lambda visit: [self.prepare(record) for record in visit.records],
            self.report,
            name="reports",
            again=again,
            size=lambda visit: len(visit.records),
        )

    def prepare(self, record: FundusRecord) -> Photograph | Bad:
        """A photograph decoded and checked, or why there is none."""
        try:
            check_name(record.image)
            return self.predictor.prepare(self.manifest.path(record.image), force=self.force)
        except NoRetina as error:
            return Bad(record, REFUSED, self.short(error))
        except UserError as error:
            return Bad(record, FAILED, self.short(error))

    def report(self, visit: Visit, prepared: Sequence[Photograph | Bad]) -> Line:
        """Write the report of the photographs that are good; the visit's line."""
        from mdf.inference.render import write

        bad = [one for one in prepared if isinstance(one, Bad)]
        pairs = zip(visit.records, prepared, strict=True)
        good = [(record, one) for record, one in pairs if isinstance(one, Photograph)]
        status = FAILED if any(b.status == FAILED for b in bad) else REFUSED if bad else DONE
        line: Line = {"status": status, "patient": visit.records[0].patient, "bad": [one.line for one in bad]}
        if bad:
            line["reason"] = "; ".join(one.reason for one in bad)
        if not good:
            return line
        sides = [record.eye or self.eye for record, _ in good]
        records = tuple(record for record, _ in good)
        name = (visit if not bad else Visit(records[0].id, records)).name  # one eye's report is not the pair's
        before = self.before.get(visit.id, {})
        if before.get("report") == f"{REPORTS}/{name}":  # of the same photographs: a person may have reviewed it
            return line | {key: before[key] for key in ("report", "urgency", "eyes")}
        try:
            report, pictures = draft(
                self.predictor,
                [self.predictor.look(one) for _, one in good],
                eyes=sides,  # type: ignore[arg-type]
                rules=self.rules,
                patient=visit.records[0].patient,
                force=self.force,
                maps=self.maps,
            )
        except UserError as error:
            raise UserError(self.short(error)) from None
        place = self.out / REPORTS / name
        write(report, pictures, place.parent, self.formats, place.name, form=self.predictor.form)
        eyes = [eye_line(record, eye) for record, eye in zip(records, report.eyes, strict=True)]
        urgency = report.referral.urgency.value if report.referral else None
        return {**line, "report": f"{REPORTS}/{name}", "urgency": urgency, "eyes": eyes}

    def short(self, error: UserError) -> str:
        """A message with paths as they stand in the list."""
        return str(error).replace(f"{self.manifest.root}/", "")


def eye_line(record: FundusRecord, eye: EyeReport) -> Line:
    """What an index says of one eye: the first diagnosis whether the model is confident of it or not."""
    impression = eye.impression
    likely = impression.diagnoses[0] if impression and impression.diagnoses else None
    return {
        "photograph": record.id,
        "eye": eye.laterality.eye,
        "gradability": eye.gradability.value,
        "reasons": list(eye.gradability.reasons),
        "diagnosis": likely.name if likely else None,
        "probability": round(likely.probability, 4) if likely else None,
        "confident": bool(impression and impression.diagnosis),
        "urgency": eye.referral.urgency.value if eye.referral else None,
    }
