"""`report.py --data` and `report.py summary`: reports of very many photographs, and the page of what came of them."""

import argparse

from mdf.errors import UserError


def many(args: argparse.Namespace) -> int:
    """Run `report.py --data`; the exit code. Nothing is loaded before everything else is known to be right."""
    from mdf.inference.batch import choose_shard, share_machine
    from mdf.inference.gate import resolve_checkpoint
    from mdf.inference.referral import check_rules
    from mdf.inference.render import check_formats, check_out
    from mdf.inference.worklist import read_photographs

    if args.images or args.left or args.right or args.earlier or args.patient or args.sign or args.known:
        raise UserError("--data goes without photographs, --left, --right, --earlier, --patient, --sign and --known")
    rules, formats = check_rules(args.rules), check_formats([word for word in args.format.split(",") if word])
    check_out(args.out)
    shard, checkpoint = choose_shard(args.shard), resolve_checkpoint(args.checkpoint)
    photographs = read_photographs(args.data, args.data_root, whole=True, leave_out=args.out)

    from mdf.inference.batch_reports import BatchReports
    from mdf.inference.predictor import Predictor
    from mdf.inference.summary import write_summary

    device = share_machine(args.device)
    batch = BatchReports(
        checkpoint,
        photographs,
        args.out,
        formats=formats,
        rules=rules,
        eye=args.eye,
        force=args.force,
        maps=args.maps,
        shard=shard,
    )
    outcome = batch.make(lambda: Predictor(checkpoint, device), retry=args.retry)
    print(outcome.summary("reports"))
    print(write_summary(args.out, outcome.left))
    return outcome.code


def summary(argv: list[str]) -> None:
    """Run `report.py summary`."""
    parser = argparse.ArgumentParser(prog="report.py summary", description="Write OUT/index.html and OUT/index.csv.")
    parser.add_argument("out", metavar="OUT", help="folder that was named with --data … --out")
    args = parser.parse_args(argv)
    from mdf.inference.summary import write_summary

    print(write_summary(args.out))
