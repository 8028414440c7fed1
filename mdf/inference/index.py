"""An index of embeddings: a Parquet file with one photograph a row, made by any number of processes, searched exactly.

    id      text
    image   path, relative to the root in the file's metadata
    vector  float32 [D], a unit vector
    model   hash of the encoder and its preprocessing: vectors of different models are never compared

Photographs are embedded in runs of PART, each of which is an item of batch.py and becomes a file in OUT.parts/ as soon
as it is done: a stopped job goes on with the runs that are not there, and who does the last one joins them. A batch
never spans two runs, so that the vectors do not depend on the number of processes. Photographs that cannot be read are
left out and listed; OUT.parts/ stays as long as there are some, so that they can be tried again alone.

Shapes: N photographs in the index, D width of a vector.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.photographs import embed_records
from mdf.inference.batch import DONE, FAILED, Ledger, Line, Outcome, Shard, read_lines, work_through
from mdf.inference.worklist import check_name
from mdf.records import FundusRecord, Manifest

PART = 512  # photographs that a stopped process has to do again at the most
NOTE = b"mdf"  # key of the file's metadata: {root, features, model, photographs}


class Index:
    """The file `out` that is made of the photographs of `manifest` by `model`, an Embedder."""

    def __init__(self, model: Any, manifest: Manifest, out: str | Path, features: str = "embedding"):
        self.model, self.manifest, self.out, self.features = model, manifest, Path(out), features
        if self.out.suffix != ".parquet":
            raise UserError(f"--out {out}: the name of an index ends in .parquet")
        self.parts = self.out.with_name(self.out.name + ".parts")
        self.runs = [f"{number:06d}" for number in range(-(-len(manifest.records) // PART))]
        listed = "\n".join(f"{r.id}\t{r.image}" for r in manifest.records)
        self.plan = {
            "root": str(manifest.root),
            "features": features,
            "model": model.hash(),
            "photographs": len(manifest.records),
            "listed": hashlib.sha256(listed.encode()).hexdigest(),
        }

    def part(self, run: str) -> Path:
        return self.parts / f"{run}.parquet"

    def make(self, shard: Shard | None = None, *, batch_size: int = 32, retry: bool = False) -> Outcome:
        """Embed this process's share of what is missing; the file is there where the outcome is `whole`.

        Args:
            retry: do runs again in which a photograph could not be read.

        Raises UserError where the file or its parts were made by another model or of other photographs.
        """
        if self.out.exists() and read_note(self.out) != self.plan:
            raise UserError(
                f"--out {self.out} is there already, of another model, features or photographs; "
                "delete it or choose another name"
            )
        if self.finished():
            return Outcome({})
        ledger = Ledger(self.parts, {**self.plan, "batch_size": batch_size}, shard)
        ledger.begin(len(self.runs))

        def work(run: str, _: None) -> Line:
            records, bad = self.records(run), unwritable(self.records(run))
            vectors = embed_records(
                self.model,
                [record for record in records if record.id not in bad],
                self.manifest,
                batch_size=batch_size,
                features=self.features,
                name=f"part {int(run) + 1} of {len(self.runs)}",
                bad=bad,
            )
            good = [record for record in records if record.id not in bad]
            if good:
                write_rows(self.part(run), good, vectors, self.plan)
            return {"status": FAILED if bad else DONE, "reason": first(bad), "rows": len(good), "bad": bad}

        outcome = work_through(
            {run: run for run in self.runs},
            ledger,
            lambda run: None,  # embed_records decodes ahead by itself
            work,
            name="embeddings",
            again=lambda line: (retry and line["status"] == FAILED) or not self.has(line),
            size=lambda run: len(self.records(run)),
        )
        whole = not outcome.stopped and (self.finished() or self.join())
        return replace(outcome, left=0 if whole else max(1, outcome.left))

    def records(self, run: str) -> Sequence[FundusRecord]:
        return self.manifest.records[int(run) * PART : (int(run) + 1) * PART]

    def finished(self) -> bool:
        """Whether the file is there with all photographs."""
        return self.out.exists() and not self.parts.exists()

    def has(self, line: Line) -> bool:
        """Whether the rows that a line speaks of are there."""
        return "rows" in line and (line["rows"] == 0 or self.part(line["id"]).exists())

    def bad(self) -> dict[str, str]:
        """By id the photographs that could not be read, by any process, and why."""
        return {id_: why for line in read_lines(self.parts).values() for id_, why in line.get("bad", {}).items()}

    def join(self) -> bool:
        """One file of all parts, where all are there. Raises UserError where none has a photograph."""
        from filelock import FileLock
        from pyarrow import concat_tables, parquet

        lock = self.out.with_name(self.out.name + ".lock")
        with FileLock(lock):
            lines = read_lines(self.parts)
            if not self.finished():
                if not all(run in lines and self.has(lines[run]) for run in self.runs):
                    return False
                made = [run for run in self.runs if lines[run]["rows"]]
                if not made:
                    raise UserError(f"none of the photographs can be read: {first(self.bad())}")
                save(self.out, concat_tables([parquet.read_table(self.part(run)) for run in made]))
                if all(line["status"] == DONE for line in lines.values()):
                    shutil.rmtree(self.parts)
        lock.unlink(missing_ok=True)
        return True


def unwritable(records: Sequence[FundusRecord]) -> dict[str, str]:
    """By id the photographs whose names cannot stand in an index, and why."""
    bad = {}
    for record in records:
        try:
            check_name(record.image)
        except UserError as error:
            bad[record.id] = str(error)
    return bad


def first(bad: Mapping[str, str]) -> str:
    """Why the first of these photographs could not be read, and how many more."""
    return next(iter(bad.values()), "") + (f" … and {len(bad) - 1} more" if len(bad) > 1 else "")


def write_rows(path: Path, records: Sequence[FundusRecord], vectors: np.ndarray, plan: dict) -> None:
    """Rows of an index with its metadata; `vectors` float32 [N,D]."""
    import pyarrow

    width = vectors.shape[1]
    columns = {
        "id": pyarrow.array([r.id for r in records], pyarrow.string()),
        "image": pyarrow.array([r.image for r in records], pyarrow.string()),
        "vector": pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(vectors.astype(np.float32).reshape(-1), pyarrow.float32()), width
        ),
        "model": pyarrow.array([plan["model"]] * len(records), pyarrow.string()),
    }
    save(path, pyarrow.table(columns).replace_schema_metadata({NOTE: json.dumps(plan)}))


def save(path: Path, rows: Any) -> None:
    """A Parquet file that is whole or not there."""
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        parquet.write_table(rows, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_note(path: Path) -> dict:
    """What an index says of itself. Raises UserError for a file that is none."""
    import pyarrow
    from pyarrow import parquet

    try:
        note = (parquet.read_schema(path).metadata or {}).get(NOTE)
    except FileNotFoundError:
        raise UserError(f"index {path}: no such file; scripts/embed.py makes one") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"index {path} cannot be read: {error}") from None
    if note is None:
        raise UserError(f"index {path} was not written by scripts/embed.py: it does not say by which model")
    return json.loads(note)


@dataclass(frozen=True)
class Hit:
    """One photograph found, 1.0 being the same direction."""

    id: str
    image: str  # relative to the root
    similarity: float


class Search:
    """Similar photographs in an index, searched exactly: by `faiss` where it is installed, else by a matrix product."""

    def __init__(self, path: str | Path, model: Any):
        """Raises UserError for an index that another model made."""
        from pyarrow import parquet

        self.path, self.model = Path(path), model
        self.note = read_note(self.path)
        mine = model.hash()
        rows = parquet.read_table(self.path)
        made = {self.note["model"], *rows["model"].unique().to_pylist()}
        if made != {mine}:
            others = ", ".join(sorted(made - {mine}))
            raise UserError(
                f"index {self.path} was made by another model ({others}, this one is {mine}): its vectors mean "
                "something else. Search with the model that made it, or embed the photographs anew"
            )
        self.root = Path(self.note["root"])
        self.ids, self.images = rows["id"].to_pylist(), rows["image"].to_pylist()
        vectors = rows["vector"].combine_chunks()
        self.vectors = vectors.flatten().to_numpy().reshape(len(self.ids), -1)
        try:
            import faiss
        except ImportError:
            self.faiss = None
        else:
            self.faiss = faiss.IndexFlatIP(self.vectors.shape[1])
            self.faiss.add(np.ascontiguousarray(self.vectors))

    def nearest(self, vector: np.ndarray, count: int) -> list[Hit]:
        """The `count` photographs most similar to a unit vector [D], the most similar first; equals by their order."""
        count = min(count, len(self.ids))
        if self.faiss is not None:
            similarities, found = self.faiss.search(vector[None].astype(np.float32), count)
            pairs = list(zip(found[0].tolist(), similarities[0].tolist(), strict=True))
        else:
            similarity = self.vectors @ vector.astype(np.float32)
            pairs = [(int(i), float(similarity[i])) for i in np.argsort(-similarity, kind="stable")[:count]]
        return [Hit(self.ids[i], self.images[i], s) for i, s in pairs]

    def by_photograph(self, image: np.ndarray, count: int) -> list[Hit]:
        """Those that look like a photograph, uint8 [H,W,3]."""
        from mdf.evaluation.photographs import embed

        return self.nearest(embed(self.model, self.model.processor(image), self.note["features"])[0], count)

    def by_words(self, words: str, count: int) -> list[Hit]:
        """Those that a text describes. Raises UserError for an index of features that have no words."""
        if self.note["features"] != "embedding":
            raise UserError(
                f"index {self.path} holds {self.note['features']} features, which lie in another space than words; "
                "search by photograph, or embed anew without --features"
            )
        return self.nearest(self.model.embed_text([words])[0].float().cpu().numpy(), count)
