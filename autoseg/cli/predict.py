"""`autoseg_predict`: label maps for new scans."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import EXIT_DONE, EXIT_SOME_CASES_FAILED, Problem, format_problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser(
        "autoseg_predict",
        description="Segment a scan or a folder of scans; each label map lies on its scan's own grid.",
        example="autoseg_predict -m RUN -i scans/ -o predictions/",
    )
    parser.add_argument("-m", "--model", type=Path, required=True, help="run folder or model.safetensors")
    parser.add_argument("-i", "--input", type=Path, required=True, help="scan file, or folder of scans")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda (default: auto)")
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME", help="only these organs (default: all)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="such as inference.window_overlap=0.25",
    )
    return run_command(parser, _predict, argv)


def _predict(arguments: argparse.Namespace) -> int:
    from autoseg.inference.command import predict  # torch loads only when there is work

    run = predict(
        arguments.model,
        arguments.input,
        arguments.output,
        device=arguments.device,
        labels=arguments.labels,
        settings=arguments.settings,
    )
    done = len(run.cases) - len(run.failed)
    print(f"{done} of {len(run.cases)} cases predicted; label maps, statistics.csv and run.json are in {run.output}")
    if not run.failed:
        return EXIT_DONE
    print("\n".join(format_problems([Problem(case.case_id, case.message) for case in run.failed])), file=sys.stderr)
    return EXIT_SOME_CASES_FAILED


if __name__ == "__main__":
    sys.exit(main())
