"""Whether a run that goes on would learn from other photographs than it began with."""

import json
from collections.abc import Sequence

from mdf.config import Config
from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.records import FundusRecord, Manifest, read_manifest
from mdf.training.data import chosen
from mdf.training.run_folder import RunFolder
from mdf.training.stages import Task

SHOWN = 3  # photographs that are named of each kind of change


def refuse_other_data(
    cfg: Config, folder: RunFolder, manifests: dict[str, Manifest], stages: Sequence[str], *, done: bool = False
) -> None:
    """Raise UserError where `stages`, those that are still to be trained, would learn from, or be judged by, other
    records than the run began with. Whatever else of the data has changed is of no matter.

    An order drawn from other records would be another one, and of a split that is drawn anew photographs that were
    trained on become those that judge. `done`: last/ is of a stage that is.
    """
    try:
        known = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))["data_sha256"]
    except (OSError, ValueError, KeyError):
        return  # what it was is not known
    lines = []
    for stage in stages:
        file = folder.data_file(stage, manifests)
        if stage not in known or known[stage] == manifests[stage].sha256:
            continue
        if not file.is_file():
            lines.append(f"{stage}: another manifest than it was, and {file}, which had that, is not there any more")
            continue
        then = read_manifest(file, manifests[stage].root)
        prompts = Prompts(folder.last / "prompts")
        task = Task(cfg, stage)
        for split, what in (("train", "to train on"), ("val", "to judge by")):
            had, has = (chosen(cfg, task, m, split, prompts, lambda text: None) for m in (then, manifests[stage]))
            if found := changes(had, has):
                lines.append(f"{stage}, {what}: {found}; {file} has them as they were")
    if lines:
        raise UserError(
            f"--resume: the data have changed since {folder.path} began, and what is left to train would not be what "
            "it was begun as:\n  " + "\n  ".join(lines) + "\n"
            "Bring them back; or train on the new data as another run from these weights: run.name=NAME "
            f"run.start_from={folder.best if done else folder.last} run.stages=[{','.join(stages)}]"
        )


def changes(had: Sequence[FundusRecord], has: Sequence[FundusRecord]) -> str:
    """What is different between two lists of records; "" for nothing."""
    before, after = {r.id: r for r in had}, {r.id: r for r in has}
    kinds = {
        "new": [i for i in after if i not in before],
        "gone": [i for i in before if i not in after],
        "changed": [i for i in after if i in before and after[i].to_dict() != before[i].to_dict()],
    }
    found = [
        f"{len(ids)} {kind} ({', '.join(ids[:SHOWN])}{', …' if len(ids) > SHOWN else ''})"
        for kind, ids in kinds.items()
        if ids
    ]
    return ", ".join(found) or ("the same in another order" if [*before] != [*after] else "")
