"""Measure what the fusion costs, how fast the encoder trains and embeds and photographs are loaded, as ratios."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mdf.cli import run

NAMES = ("generate", "step", "evaluate", "memory", "fuse", "language", "align", "data")
DESCRIPTION = """\
Measure what the fusion costs, how fast the encoder is aligned and embeds, and how fast data are loaded: ratios, each
against a named reference that is measured in the same run, turn by turn.

benchmarks:
  generate    tokens a second of an answer, over the same language model without adapters    (at least 0.9)
  step        seconds of a fuse training step with the U-Net frozen, over the baseline MLLM's (at most 1.35);
              and with the U-Net training beside it
  evaluate    seconds of scoring eight candidate diagnoses of each photograph, over one forward pass of the prompt and
              of the answers' tokens (at most 1.3)
  memory      the most that such a step holds, over the baseline's and over transformers' with peft on the language
              model alone, at 128 and 512 tokens (at most 1.15)
  fuse        tokens a second of a fuse training step, encoder and U-Net frozen, over TRL's SFTTrainer with peft on the
              same language model at 128 and 512 tokens (at least 1.0); peak memory of the loss over that of all
              logits at once (at most 0.25). Needs TRL: pip install 'mdf-mllm[benchmark]'
  language    seconds of a training step of the language model alone: eager attention over sdpa at 128 and 512 tokens,
              4 and 8 bits over the whole weights. Needs bitsandbytes
  align       photographs a second of a contrastive training step, over a plain loop around open_clip's own model and
              loss (at least 1.0); of embedding, over the encoder's bare forward (at least 0.95), and from files
  data        photographs a second from files to batches, over the same work in PIL and torchvision (at least 1.5);
              from the cache of prepared photographs and from prepared shards likewise (at least 5)
"""
EPILOG = """\
examples:
  python scripts/benchmark.py
  python scripts/benchmark.py data --data-root DIR encoder.size=224 unet.size=512
  python scripts/benchmark.py step --config odir5k data.root=DIR fuse.batch_size=4 --repeats 20 --json step.json
  python scripts/benchmark.py align --processes 2
  python scripts/benchmark.py align encoder.model=ViT-B-16 encoder.weights=null encoder.size=0 align.batch_size=8

A missed bar is printed as "short" and is no failure. Close other jobs before you trust seconds; ratios bear them.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="benchmark.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("words", nargs="*", metavar="NAME | key.sub=value", help="benchmarks (default: all) and settings")
    made.add_argument("--config", metavar="FILE", help="YAML file or name of a bundled one (default: quickstart)")
    made.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds after the warm-up (default: 7)")
    made.add_argument(
        "--processes", type=int, default=1, metavar="N", help="align: processes that train together (default: 1)"
    )
    made.add_argument("--data-root", metavar="DIR", help="data, align: folder of real photographs (default: phantoms)")
    made.add_argument("--workers", type=int, default=0, metavar="N", help="data: loader processes (default: 0)")
    made.add_argument("--json", metavar="OUT", help="also write every round's numbers to this file")
    return made


def launch(processes: int, argv: Sequence[str]) -> int:
    """This script on several processes that share the cores, or have a GPU each; the exit code."""
    import torch

    from mdf.errors import UserError

    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if torch.cuda.is_available() and not use_cpu and processes > torch.cuda.device_count():
        raise UserError(
            f"--processes {processes}: there are {torch.cuda.device_count()} GPUs, and each process takes one; "
            "ACCELERATE_USE_CPU=true measures on the processor"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    env = {"OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ}
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run([sys.executable, *several, __file__, *argv], env=env, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_intermixed_args(argv)
    settings = [word for word in args.words if "=" in word]
    names = [word for word in args.words if "=" not in word] or list(NAMES)

    from mdf.errors import UserError

    if unknown := sorted(set(names) - set(NAMES)):
        raise UserError(
            f"no benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}, or write settings as key.sub=value"
        )
    if args.repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {args.repeats}")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if args.processes < 1:
        raise UserError(f"--processes must be at least 1, not {args.processes}")
    if max(args.processes, launched) > 1 and names != ["align"]:
        raise UserError("several processes are for align alone: benchmark.py align --processes 2")
    if args.workers < 0:
        raise UserError(f"--workers must be at least 0, not {args.workers}")
    if args.data_root and not Path(args.data_root).is_dir():
        raise UserError(f"--data-root: there is no folder {args.data_root}")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise UserError(f"--json: the folder of {args.json} does not exist; make it first")

    from mdf.config import load_config

    cfg = load_config(args.config, settings)
    if args.processes > launched:
        return launch(args.processes, argv)

    from mdf.benchmarks import Benchmarks, table

    rows, facts = [], {}
    root = Path(args.data_root) if args.data_root else None
    if {"generate", "step", "evaluate", "memory", "fuse", "language"} & set(names):  # looks at the configuration
        from mdf.evaluate_benchmarks import evaluate
        from mdf.fuse_benchmarks import fuse, need_trl
        from mdf.language_benchmarks import language, need_bitsandbytes
        from mdf.memory_benchmarks import memory

        for name, need in {"fuse": need_trl, "language": need_bitsandbytes}.items():
            if name in names:
                try:
                    need()
                except UserError as error:
                    if name in args.words:
                        raise
                    names.remove(name)
                    print(f"left out: {error}")
        benchmarks = Benchmarks(cfg)
        rows, facts = benchmarks.run(names, args.repeats), benchmarks.facts
        rows += evaluate(benchmarks, args.repeats) if "evaluate" in names else []
        rows += memory(benchmarks) if "memory" in names else []
        rows += fuse(benchmarks, args.repeats) if "fuse" in names else []
        rows += language(benchmarks, args.repeats) if "language" in names else []
        del benchmarks  # two language models
    if "align" in names:
        from mdf.align_benchmarks import align

        more, where = align(cfg, args.repeats, root=root)
        rows, facts = rows + more, facts | where
    if "data" in names:
        from mdf.data_benchmarks import data

        rows += data(cfg, args.repeats, root=root, workers=args.workers)
    if os.environ.get("RANK", "0") != "0":
        return 0  # one process speaks for all
    print(f"\n{table(rows)}")
    print(
        f"medians of {args.repeats} rounds, in brackets the least and the greatest; a ratio is taken within its round"
    )
    if args.json:
        found = {**facts, "repeats": args.repeats, "rows": [row.to_dict() for row in rows]}
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
