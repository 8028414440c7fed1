"""Train a model: every stage of a configuration, on one process or many. Or a grid of them.

python scripts/train.py                                         the quickstart
accelerate launch scripts/train.py --config odir5k data.root=DIR run.name=first
python scripts/train.py --config odir5k data.root=DIR run.name=first --resume
python scripts/train.py grid variants --out runs/variants       many, one a GPU, with a table
"""

import argparse
import sys
from collections.abc import Sequence

from mdf.cli import run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="train.py",
        description="Train all stages of a configuration into RUN.DIR/RUN.NAME: checkpoints, metrics, samples.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 143 stopped by SIGTERM after saving; "
        "`accelerate launch` makes 1 of every one but 0, and with one process passes SIGTERM on to nobody: where a "
        "queue reads them, start one process with python. "
        "`train.py grid --help`: many runs and their table.",
    )
    made.add_argument(
        "--config", metavar="FILE", help="YAML file, or the name of a bundled configuration (default: quickstart)"
    )
    made.add_argument(
        "settings", nargs="*", metavar="key.sub=value", help="settings over those of the file, e.g. fuse.steps=200"
    )
    made.add_argument("--resume", action="store_true", help="continue the run where its last/ stands")
    made.add_argument("--dry-run", action="store_true", help="build everything, show one batch, train nothing")
    made.add_argument(
        "--strict", action="store_true", help="with --dry-run: exit 2 where something could not be checked"
    )
    return made


def grid_parser() -> argparse.ArgumentParser:
    """The command line of `train.py grid`."""
    made = argparse.ArgumentParser(
        prog="train.py grid",
        description="Train and evaluate every run of a grid, each in its own folder in DIR, and write DIR/table.md "
        "and table.json. The same command again goes on: done runs are left alone, others resume.",
        epilog="Exit codes: 0 done, 1 some run failed (listed below the table), 2 wrong input, 143 stopped by SIGTERM.",
    )
    made.add_argument("grid", metavar="GRID.yaml", help="grid file, or a bundled one: variants, ablations, odir")
    made.add_argument(
        "settings", nargs="*", metavar="KEY.SUB=VALUE", help="settings of all runs, such as data.root=DIR"
    )
    made.add_argument("--seeds", type=int, nargs="+", metavar="N", help="these instead of the file's")
    made.add_argument("--limit", type=int, metavar="N", help="photographs that judge a run, instead of the file's")
    made.add_argument("--out", metavar="DIR", help="folder of the runs (default: runs/GRID)")
    made.add_argument("--jobs", type=int, default=0, metavar="N", help="runs at a time (default: one a GPU, else 1)")
    made.add_argument("--dry-run", action="store_true", help="print the runs with their steps, train nothing")
    return made


def grid_main(argv: Sequence[str]) -> int:
    """`train.py grid`."""
    args = grid_parser().parse_intermixed_args(argv)
    from dataclasses import replace
    from pathlib import Path

    from mdf.errors import UserError
    from mdf.training.grid import Runner, evaluations, plan, refuse_others, scripts, slots, threads_each
    from mdf.training.grid_file import cells_of, read_grid

    if args.jobs < 0:
        raise UserError("--jobs must be at least 1")
    if args.limit is not None and args.limit < 0:
        raise UserError("--limit must be at least 1, or 0 for all photographs")
    grid = read_grid(args.grid)
    asked = grid.evaluate if args.limit is None else replace(grid.evaluate, limit=args.limit)
    seeds = tuple(args.seeds or grid.seeds)
    grid = replace(grid, common=(*grid.common, *args.settings), seeds=seeds, evaluate=asked)
    out = Path(args.out or Path("runs") / Path(args.grid).stem)
    places = slots(args.jobs)
    cells = cells_of(grid, out, threads_each(len(places)))
    if args.dry_run:
        refuse_others(cells)
        print(plan(cells, grid.evaluate, len(places)))
        return 0
    from mdf.evaluation.grid_table import write_table

    def after(failed: dict[str, str]) -> None:
        write_table(evaluations(cells, grid.evaluate), grid.metrics, failed, out)

    code = Runner(cells, grid, scripts(Path(__file__).parent), places, after).run()
    print(f"\n{(out / 'table.md').read_text(encoding='utf-8')}\nwritten to {out / 'table.md'} and table.json")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load the configuration, train; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] == "grid":
        return grid_main(words[1:])
    args = parser().parse_intermixed_args(words)
    from mdf.config import load_config

    cfg = load_config(args.config, args.settings)
    if args.dry_run:
        from mdf.training.dry_run import dry_run

        return dry_run(cfg, strict=args.strict)
    from mdf.training.run import train

    return train(cfg, resume=args.resume)


if __name__ == "__main__":
    run(main)
