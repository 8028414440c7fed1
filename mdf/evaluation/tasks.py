"""Names of the evaluation's tasks; no torch here, so that `evaluate.py --help` answers at once."""

from argparse import Namespace
from collections.abc import Sequence

from mdf.cli import check_encoder
from mdf.errors import UserError

DEFAULT_TASKS = ("diagnosis", "generate", "masks", "retrieval", "zero_shot", "spatial", "controls")
ASKED_FOR = ("probe", "few_shot")  # they embed the photographs of other splits, too
# only when asked for, too: maps follow gradients, pairs are drawn, reports look at each photograph for itself
SLOW = ("maps", "counterfactual", "reports")
TASKS = (*DEFAULT_TASKS, *ASKED_FOR, *SLOW)
EMBEDDING_TASKS = ("zero_shot", "probe", "few_shot", "retrieval")  # the encoder is enough for them
GENERATED = 100  # photographs that are put into words, the slowest task
FEATURES = ("embedding", "pooled", "patches")  # what a probe reads, see mdf.evaluation.photographs.embed


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise UserError for a task that there is not."""
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise UserError(f"--tasks: unknown {', '.join(unknown)}; choose from {', '.join(TASKS)}")


def check_words(tasks: Sequence[str], words: Namespace) -> None:
    """Raise UserError where the options of `evaluate.py` do not fit together."""
    check_tasks(tasks)
    if words.batch_size < 1 or min(words.limit, words.size, words.generated) < 0:
        raise UserError("--batch-size must be at least 1, --limit, --generated and --size at least 0")
    if words.folds and (words.folds < 2 or set(tasks) != {"probe"}):
        raise UserError("--folds is 2 or more and goes with --tasks probe alone, over all photographs")
    if words.fellow_eye and "probe" not in tasks:
        raise UserError("--fellow-eye is for the task probe; add it to --tasks")
    if words.learn_from and (words.folds or not set(tasks) & set(ASKED_FOR)):
        raise UserError("--learn-from goes with the tasks probe and few_shot, and without --folds")
    if words.learn_from_root and not words.learn_from:
        raise UserError("--learn-from-root belongs to --learn-from")
    if words.encoder and not set(tasks) <= set(EMBEDDING_TASKS):
        raise UserError(f"--encoder has no language model; it goes with --tasks {','.join(EMBEDDING_TASKS)}")
    check_encoder(words)
