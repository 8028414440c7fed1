"""Talk with a checkpoint about photographs."""

import argparse

from mdf import cli

EPILOG = """\
examples:
  python scripts/chat.py --checkpoint runs/quickstart --image eye.jpg                       a conversation
  python scripts/chat.py --checkpoint runs/quickstart --right od.jpg --left os.jpg          about both eyes
  python scripts/chat.py --checkpoint runs/quickstart --image eye.jpg --ask "What is the diagnosis?"
  python scripts/chat.py --checkpoint runs/quickstart --image eye.jpg --ask "Are there haemorrhages?" --maps maps

In a conversation /help lists what can be typed, Ctrl-C stops an answer. Of several photographs the model sees one at a
time. Nothing is kept without --save or /save.
Every answer is a draft for research; a clinician must look at the photograph.
"""
PLACES = {"image": "photograph", "right": "right", "left": "left", "earlier": "earlier"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Ask a checkpoint about fundus photographs; without --ask, a conversation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--image", metavar="FILE", help="photograph: JPEG, PNG, TIFF …")
    parser.add_argument("--right", metavar="FILE", help="photograph of the right eye")
    parser.add_argument("--left", metavar="FILE", help="photograph of the left eye")
    parser.add_argument("--earlier", metavar="FILE", help="photograph of an earlier visit")
    parser.add_argument("--ask", metavar="QUESTION", help="one question; the answer alone goes to standard output")
    parser.add_argument(
        "--maps",
        metavar="DIR",
        help="with --ask: write maps of what the answer was read from, word by word and depth by depth",
    )
    parser.add_argument("--save", metavar="FILE.md", help="write a transcript at the end, marked as a draft")
    parser.add_argument(
        "--force", action="store_true", help="also answer about a picture that does not look like a retina"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 (default): the likeliest words; up to 2: by chance",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a temperature above 0 (default: 0)")
    parser.add_argument(
        "--max-tokens", type=int, default=160, metavar="N", help="length of an answer at most (default: 160)"
    )
    parser.add_argument(
        "--window", type=int, default=0, metavar="N", help="tokens that the model sees at most (default: all it can)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)

    import sys

    from mdf.errors import UserError

    files = {place: getattr(args, name) for name, place in PLACES.items() if getattr(args, name) is not None}
    if not files:
        raise UserError("there is no photograph: give --image FILE, or --right, --left, --earlier")
    if args.ask is not None and len(files) > 1:
        raise UserError("--ask is about one photograph; leave it out to talk about several")
    if args.maps is not None and args.ask is None:
        raise UserError("--maps shows what one answer was read from and goes with --ask QUESTION")

    from mdf.inference.gate import BANNER, gate, resolve_checkpoint

    checkpoint = resolve_checkpoint(args.checkpoint)
    for file in files.values():  # before torch is imported: a wrong file is known at once
        gate(file, force=args.force)

    from mdf.inference.chat import STALE, answer_once, converse, free_file, look_at, maps, refuse_file, save
    from mdf.inference.conversation import Sampling
    from mdf.inference.predictor import Predictor
    from mdf.inference.session import Session

    sampling = Sampling(args.temperature, args.seed, args.max_tokens, args.window)
    save_to = None if args.save is None else refuse_file(args.save)
    session = Session(Predictor(checkpoint, args.device), sampling)
    if args.ask is None:
        for place, file in files.items():
            look_at(session, place, file, force=args.force)
        return converse(session, force=args.force, save_to=save_to)
    print(BANNER, file=sys.stderr)
    ((place, file),) = files.items()
    for warning in session.put(place, session.predictor.read(file, force=args.force)):
        print(f"WARNING: {warning}")
    answer_once(session, args.ask)
    if args.maps is not None:
        import json

        written = maps(session, args.maps)
        print(f"maps: {', '.join(map(str, written))}", file=sys.stderr)
        print(json.loads(written[-1].read_text(encoding="utf-8"))["unplaced"], file=sys.stderr)
        if session.predictor.model.config.stale_masks:
            print(STALE, file=sys.stderr)
    if save_to is not None:
        print(f"transcript: {save(session, free_file(save_to))}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
