"""Defines the command `autoseg_predict`, which writes label maps for new scans."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import EXIT_DONE, EXIT_SOME_CASES_FAILED, Problem, format_problems, printable
from autoseg.system.resources import give_large_blocks_back


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser(
        "autoseg_predict",
        description="Segment a scan or a folder of scans; each label map is on the grid of its scan.",
        example="autoseg_predict -m RUN -i scans/ -o predictions/",
    )
    parser.add_argument("-m", "--model", type=Path, required=True, help="run folder or model.safetensors")
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        nargs="+",
        required=True,
        help="scans (NIfTI, NRRD, MetaImage), folders of scans, DICOM series, or a .csv table: case and channels",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("--device", default="auto", help="auto (CUDA if available), cpu, cuda (default: auto)")
    parser.add_argument("--organs", nargs="+", default=[], metavar="NAME", help="only these organs (default: all)")
    parser.add_argument(
        "--new-organ",
        nargs="+",
        default=[],
        action="extend",
        metavar="NAME=TEXT",
        dest="new_organs",
        help='organs that the model was not trained on, with descriptions, as in --new-organ "thymus=It lies ..."',
    )
    parser.add_argument(
        "--modality",
        metavar="NAME",
        help="modality of all scans, for a model of several (default: found by the intensities)",
    )
    parser.add_argument("--fold", help="the fold whose model of a run folder is used: all, 0, 1, ..")
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="more files per case: uncertainty (per voxel, in percent), probabilities (per organ), seg.nrrd (for 3D "
        "Slicer), seg.dcm (DICOM, for series; needs highdicom), masks (one per organ)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="predict nothing: print the time, memory and disk space of each case"
    )
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
    if arguments.dry_run:
        return _estimate(arguments)
    give_large_blocks_back()
    from autoseg.distributed.ranks import is_main_rank
    from autoseg.pipelines.predict import predict_files  # torch loads only when there is work

    run = predict_files(
        arguments.input,
        arguments.model,
        arguments.output,
        device=arguments.device,
        organs=arguments.organs,
        new_organs=_read_organs(arguments.new_organs),
        fold=arguments.fold,
        also=arguments.also,
        settings=arguments.settings,
        modality=arguments.modality,
    )
    if not is_main_rank():
        return EXIT_DONE  # the first rank speaks for all
    done = len(run.cases) - len(run.failed)
    before = sum(case.was_done for case in run.cases)
    earlier = f" ({before} of them by an earlier run)" if before else ""
    print(
        f"{done} of {len(run.cases)} cases predicted{earlier}; label maps, previews, statistics.csv and run.json "
        f"are in {printable(str(run.output))}; open report.html there"
    )
    if not run.failed:
        return EXIT_DONE
    print("\n".join(format_problems([Problem(case.case_id, case.message) for case in run.failed])), file=sys.stderr)
    return EXIT_SOME_CASES_FAILED


def _read_organs(words: Sequence[str]) -> dict[str, str]:
    """Part NAME=TEXT; a name alone has no text."""
    parts = (word.partition("=") for word in words)
    return {name.strip(): text.strip() for name, _, text in parts}


def _estimate(arguments: argparse.Namespace) -> int:
    give_large_blocks_back()  # as when it predicts, or its peak would be another
    from autoseg.pipelines.dry_run import format_estimates
    from autoseg.pipelines.predict import estimate_files
    from autoseg.pipelines.prediction_request import PredictionRequest

    request = PredictionRequest(
        arguments.model,
        arguments.device,
        arguments.organs,
        _read_organs(arguments.new_organs),
        arguments.fold,
        arguments.settings,
        arguments.modality,
    )
    estimates = estimate_files(arguments.input, request, also=arguments.also)
    print(format_estimates(estimates))
    return EXIT_SOME_CASES_FAILED if any(one.fault for one in estimates) else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
