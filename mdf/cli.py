"""What every script does around its own work: exit codes and one clear message instead of a traceback.

0 done, 1 failed (a full disk included), 2 the user's input is wrong, 130 interrupted, 143 stopped by SIGTERM after
saving.
"""

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
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: the disk is full ({error}). The last whole checkpoint is untouched; free space, then --resume.",
            file=sys.stderr,
        )
        code = 1
    sys.stdout.flush()
    sys.exit(code)
