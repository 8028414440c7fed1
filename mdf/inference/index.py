"""An index of embeddings: a Parquet file with one photograph a row, made by any number of processes, searched exactly.

    id      text
    image   path, relative to the root in the file's metadata
    vector  float32 [D], a unit vector
    model   hash of the encoder and its preprocessing: vectors of different models are never compared

Photographs are embedded in runs of PART, each of which becomes a file in OUT.parts/ as soon as it is done. Process r of
W does the runs r, r + W, …; a stopped job goes on with the runs that are not there. Who does the last one joins them.

Shapes: N photographs in the index, D width of a vector.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdf.datasets.common import image_files, unique_ids
from mdf.errors import UserError
from mdf.evaluation.photographs import embed_records
from mdf.files import write_text
from mdf.records import FundusRecord, Manifest, read_manifest

PART = 512  # photographs that a stopped process has to do again at the most
NOTE = b"mdf"  # key of the file's metadata: {root, features, model, photographs}


def read_photographs(data: str | Path, data_root: str | Path | None = None) -> Manifest:
    """The photographs of a manifest, or all of a folder, whose ids are their paths without ending."""
    path = Path(data)
    if not path.is_dir():
        return read_manifest(path, data_root=data_root)
    names = [f.relative_to(path).as_posix() for f in image_files(path, "--data")]
    pairs = zip(unique_ids(names), names, strict=True)
    return Manifest(tuple(FundusRecord(id=id_, image=name) for id_, name in pairs), path.resolve())


def processes() -> tuple[int, int]:
    """This process's number and how many there are, as a launcher says it. Raises UserError for other values."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise UserError(f"RANK={rank} and WORLD_SIZE={world}: process numbers go from 0 to WORLD_SIZE - 1")
    return int(rank), int(world)


def share_machine(device: str | None) -> str | None:
    """The device of this process, where a launcher started several on a machine with GPUs; on the CPU they share the
    cores.
    """
    import torch

    from mdf.training.devices import choose_threads

    local, beside = os.environ.get("LOCAL_RANK", "0"), os.environ.get("LOCAL_WORLD_SIZE", "1")
    threads = choose_threads(0, int(beside))
    if threads is not None:
        torch.set_num_threads(threads)
    if device is None and torch.cuda.is_available() and int(beside) > 1:
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


class Index:
    """The file `out` that is made of the photographs of `manifest` by `model`, an Embedder."""

    def __init__(self, model: Any, manifest: Manifest, out: str | Path, features: str = "embedding"):
        self.model, self.manifest, self.out, self.features = model, manifest, Path(out), features
        if self.out.suffix != ".parquet":
            raise UserError(f"--out {out}: the name of an index ends in .parquet")
        self.parts = self.out.with_name(self.out.name + ".parts")
        self.runs = -(-len(manifest.records) // PART)
        listed = "\n".join(f"{r.id}\t{r.image}" for r in manifest.records)
        self.plan = {
            "root": str(manifest.root),
            "features": features,
            "model": model.hash(),
            "photographs": len(manifest.records),
            "listed": hashlib.sha256(listed.encode()).hexdigest(),
        }

    def part(self, run: int) -> Path:
        return self.parts / f"{run:06d}.parquet"

    def make(self, rank: int = 0, world: int = 1, *, batch_size: int = 32) -> bool:
        """Embed this process's share of what is missing; whether the whole file is there now.

        Raises UserError where the file or its parts were made by another model or of other photographs, and for a
        photograph that cannot be read (what was done before it stays).
        """
        if self.out.exists():
            if read_note(self.out) != self.plan:
                raise UserError(
                    f"--out {self.out} is there already, of another model, features or photographs; "
                    "delete it or choose another name"
                )
            return True
        self.begin()
        mine = [run for run in range(rank, self.runs, world) if not self.part(run).exists()]
        for run in mine:
            records = self.manifest.records[run * PART : (run + 1) * PART]
            name = f"part {run + 1} of {self.runs}"
            vectors = embed_records(
                self.model, records, self.manifest, batch_size=batch_size, features=self.features, name=name
            )
            write_rows(self.part(run), records, vectors, self.plan)
        return self.join()

    def begin(self) -> None:
        """The folder of the parts, with what they are parts of."""
        from filelock import FileLock

        self.parts.mkdir(parents=True, exist_ok=True)
        with FileLock(self.parts / "lock"):
            path = self.parts / "plan.json"
            if not path.exists():
                write_text(path, json.dumps(self.plan))
            elif json.loads(path.read_text(encoding="utf-8")) != self.plan:
                raise UserError(
                    f"{self.parts} holds the beginning of an index of another model, features or photographs; "
                    "delete it or choose another --out"
                )

    def join(self) -> bool:
        """One file of all parts, where all are there."""
        from filelock import FileLock
        from pyarrow import concat_tables, parquet

        lock = self.out.with_name(self.out.name + ".lock")
        with FileLock(lock):
            if not self.out.exists():
                if not all(self.part(run).exists() for run in range(self.runs)):
                    return False
                whole = concat_tables([parquet.read_table(self.part(run)) for run in range(self.runs)])
                save(self.out, whole)
                shutil.rmtree(self.parts)
        lock.unlink(missing_ok=True)
        return True


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
