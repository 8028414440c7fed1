"""Talk with a checkpoint about a photograph."""

import argparse

from mdf import cli

EPILOG = """\
examples:
  python scripts/chat.py --checkpoint runs/quickstart --image eye.jpg                       a conversation
  python scripts/chat.py --checkpoint runs/quickstart --image eye.jpg --ask "What is the diagnosis?"
  python scripts/chat.py --checkpoint runs/quickstart --image eye.jpg --ask "Are there haemorrhages?" --maps maps

in a conversation: /image FILE another photograph, /reset forget what was said, /quit
Every answer is a draft for research; a clinician must look at the photograph.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Ask a checkpoint about a fundus photograph; without --ask, a conversation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--image", metavar="FILE", required=True, help="photograph: JPEG, PNG, TIFF …")
    parser.add_argument("--ask", metavar="QUESTION", help="one question; the answer alone goes to standard output")
    parser.add_argument(
        "--maps",
        metavar="DIR",
        help="with --ask: write maps of what the answer was read from, word by word and depth by depth",
    )
    parser.add_argument(
        "--force", action="store_true", help="also answer about a picture that does not look like a retina"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=160, metavar="N", help="length of an answer at most (default: 160)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)

    import sys

    from mdf.errors import UserError

    if args.maps is not None and args.ask is None:
        raise UserError("--maps shows what one answer was read from and goes with --ask QUESTION")

    from mdf.inference.gate import BANNER, gate, resolve_checkpoint

    checkpoint = resolve_checkpoint(args.checkpoint)
    gate(args.image, force=args.force)  # before torch is imported: a wrong file is known at once

    from mdf.inference.chat import converse
    from mdf.inference.predictor import Predictor

    predictor = Predictor(checkpoint, args.device)
    photograph = predictor.read(args.image, force=args.force)
    if args.ask is None:
        return converse(predictor, photograph, force=args.force, limit=args.max_tokens)
    print(BANNER, file=sys.stderr)
    if photograph.warning:
        print(f"WARNING: {photograph.warning}")
    answer = predictor.ask(photograph, args.ask, limit=args.max_tokens)
    print(answer)
    if args.maps is not None:
        import json

        from mdf.inference.explain import explain

        written = explain(predictor, photograph, args.ask, answer, args.maps)
        print(f"maps: {', '.join(map(str, written))}", file=sys.stderr)
        print(json.loads(written[-1].read_text(encoding="utf-8"))["unplaced"], file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
