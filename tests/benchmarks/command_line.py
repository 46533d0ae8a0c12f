"""Reads the arguments that benchmarks and proofs have in common."""

import argparse
import os
from pathlib import Path

import torch


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the option `-o`, which names the file for the results."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser


def require_one_core(parser: argparse.ArgumentParser) -> None:
    """End the script unless this process has a single core, on which the seconds that it computes are counted."""
    if len(os.sched_getaffinity(0)) > 1:
        parser.error("computing is counted on one core: run it with taskset -c 0")
    torch.set_num_threads(1)
