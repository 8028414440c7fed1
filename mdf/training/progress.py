"""One dense line on how a stage is getting on."""

import sys
import time
from typing import Any


def duration(seconds: float) -> str:
    """75 -> "1:15", 3675 -> "1:01:15"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """On a terminal one line that is rewritten, elsewhere a line for each logged step."""

    def __init__(self, stage: str, step: int, total: int):
        self.stage, self.first, self.total = stage, step, total
        self.start, self.live, self.width = time.monotonic(), sys.stdout.isatty(), 0

    def line(self, step: int, values: dict[str, Any]) -> str:
        """The line as text; `values` as they go into metrics.jsonl."""
        passed = time.monotonic() - self.start
        left = passed / max(1, step - self.first) * (self.total - step)
        parts = [f"{self.stage} {step}/{self.total} {100 * step // self.total}%"]
        parts += [f"{key.removeprefix('loss_')} {value:.4f}" for key, value in values.items() if key.startswith("loss")]
        parts += [f"lr {'/'.join(f'{value:.1e}' for key, value in values.items() if key.startswith('lr_'))}"]
        parts += [f"|g| {values['grad_norm']:.2f}", f"{values['images_per_second']:.1f} img/s"]
        if values["tokens_per_second"]:
            parts.append(f"{values['tokens_per_second']:.0f} tok/s")
        if "mfu" in values:
            parts.append(f"MFU {100 * values['mfu']:.1f}%")
        parts += [f"{values['memory_gib']:.2f} GiB", f"ETA {duration(left)}"]
        return "  ".join(parts)

    def show(self, step: int, values: dict[str, Any]) -> None:
        """Print a logged step."""
        text = self.line(step, values)
        if self.live:
            print("\r" + text.ljust(self.width), end="", flush=True)
            self.width = len(text)
        else:
            print(text, flush=True)

    def say(self, text: str) -> None:
        """Print something that stays."""
        print(("\r" + " " * self.width + "\r" if self.live else "") + text, flush=True)
