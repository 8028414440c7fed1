"""Train a model: every stage of a configuration, on one process or many.

python scripts/train.py                                         the quickstart
accelerate launch scripts/train.py --config odir5k run.name=first
python scripts/train.py --config odir5k run.name=first --resume
"""

import argparse
from collections.abc import Sequence

from mdf.cli import run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="train.py",
        description="Train all stages of a configuration into RUN.DIR/RUN.NAME: checkpoints, metrics, samples.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 143 stopped by SIGTERM after saving.",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load the configuration, train; returns the exit code."""
    args = parser().parse_intermixed_args(argv)
    from mdf.config import load_config

    cfg = load_config(args.config, args.settings)
    if args.dry_run:
        from mdf.training.dry_run import dry_run

        return dry_run(cfg, strict=args.strict)
    from mdf.training.run import train

    return train(cfg, resume=args.resume)


if __name__ == "__main__":
    run(main)
