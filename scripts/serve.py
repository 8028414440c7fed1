"""The web page on one checkpoint, on this machine."""

import argparse

from mdf import cli

EPILOG = """\
examples:
  python scripts/serve.py --checkpoint runs/quickstart
  python scripts/serve.py --checkpoint runs/odir5k --index odir5k.parquet --data odir5k.jsonl

Needs the extra `web`: pip install 'mdf-mllm[web]'. Only this machine reaches the page unless --host and --password are
given; behind another name or with HTTPS put a server of your own in front. Nothing is sent to any other machine. What
visitors bring is removed when they leave. The log names no photograph, no question and no answer.
Every answer is a draft for research; a clinician must look at the photograph.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Serve a page in the browser: chat, draft reports, similar cases, many photographs at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="checkpoint folder, or a run folder (then its best/)"
    )
    parser.add_argument("--index", metavar="F.parquet", help="that embed.py wrote: similar cases")
    parser.add_argument("--data", metavar="M.jsonl", help="manifest whose diagnoses are shown with similar cases")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the index's photographs, where they have moved")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="default: 7860")
    parser.add_argument(
        "--password", nargs="?", const="", metavar="P", help="asked of every visitor; without P it is asked for here"
    )
    parser.add_argument(
        "--idle", type=float, default=30, metavar="MIN", help="minutes until a visit ends (default: 30)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default): the likeliest words")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a temperature above 0 (default: 0)")
    parser.add_argument("--max-tokens", type=int, default=160, metavar="N", help="of an answer (default: 160)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    args = parser.parse_args(argv)

    import getpass
    import logging
    import signal
    import sys

    from mdf.errors import UserError

    if not 0 < args.port < 65536:
        raise UserError(f"--port must be from 1 to 65535, not {args.port}")
    if args.idle <= 0:
        raise UserError("--idle must be above 0 minutes")
    if args.data and not args.index:
        raise UserError("--data tells the diagnoses of an index and goes with --index")

    from mdf.inference.gate import resolve_checkpoint

    checkpoint = resolve_checkpoint(args.checkpoint)
    from mdf.inference.serve import check_access, check_gradio, serve

    check_gradio()
    password = getpass.getpass("Password of the page: ") if args.password == "" else args.password
    check_access(args.host, password)

    from mdf.inference.conversation import Sampling
    from mdf.inference.predictor import Predictor
    from mdf.inference.serve_room import Room, open_index
    from mdf.inference.visits import Visits

    sampling = Sampling(args.temperature, args.seed, args.max_tokens)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("mdf.serve").setLevel(logging.INFO)
    predictor = Predictor(checkpoint, args.device)
    search, known = open_index(predictor, args.index, args.data, args.data_root)
    room = Room(Visits(predictor, sampling, idle=60 * args.idle), search, known)

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt  # what visitors brought is removed on the way out

    signal.signal(signal.SIGTERM, end)
    serve(room, args.host, args.port, password)


if __name__ == "__main__":
    cli.run(main)
