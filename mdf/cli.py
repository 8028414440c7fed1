"""What every script does around its own work: exit codes and one clear message instead of a traceback.

0 done, 1 failed (a full disk included), 2 the user's input is wrong, 130 interrupted, 143 stopped by SIGTERM after
saving.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable


def quiet_threads() -> None:
    """Idle OpenMP threads must sleep after a short spin.

    Beside another job a pool that spins without end made one step take 34 s instead of 0.75 s; a pool that sleeps at
    once makes a step alone a fifth slower. Has to run before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Options that name an encoder: a checkpoint's, or an architecture with its weights; where photographs and device
    are.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="DIR", help="checkpoint folder, or a run folder (then its best/)")
    source.add_argument("--encoder", metavar="NAME", help="an encoder that was not trained here")
    parser.add_argument("--weights", metavar="W", help="of --encoder: open_clip tag, file or bundled name")
    parser.add_argument("--size", type=int, default=0, metavar="S", help="of --encoder: input side (default: its own)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the photographs, where they have moved")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")


def check_encoder(words: argparse.Namespace) -> None:
    """Raise UserError where what `add_encoder` reads does not fit together."""
    from mdf.errors import UserError

    if words.checkpoint and (words.weights or words.size):
        raise UserError("--weights and --size belong to --encoder; a checkpoint knows its own")


def add_batch(parser: argparse._ActionsContainer) -> None:
    """Options of work on many photographs, which stops and goes on."""
    parser.add_argument("--shard", metavar="I/N", help="share of the work, 1/4 to 4/4 on four machines (default: all)")
    parser.add_argument("--retry", action="store_true", help="try again what failed or was refused earlier")


def run(main: Callable[[], int | None]) -> None:
    """Run `main` and leave the process with its exit code."""
    from mdf.errors import UserError

    quiet_threads()
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            said, code = f"{error.filename}: may not be read or written; change its permissions, or name another", 2
        elif error.errno == errno.ENOSPC:
            said = f"the disk is full ({error}). The last whole checkpoint is untouched; free space, then --resume."
            code = 1
        else:
            raise
        print(f"error: {said}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
