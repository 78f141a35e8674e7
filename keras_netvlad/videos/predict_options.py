"""The options that `keras-netvlad predict` and the stand-alone `predict.py` share.

This file imports the standard library only, so that the help of the command does not wait for NumPy. It is copied next
to the stand-alone `predict.py`.
"""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a parser."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, folders of videos, or quoted patterns")
    parser.add_argument("--top", type=int, default=3, help="classes to print (default %(default)s)")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="running answers, this many seconds apart")
    file_help = "file to write the answers to, - for standard output; a file that exists is continued"
    parser.add_argument("--json", metavar="FILE", help=f"{file_help}; one JSON object per line")
    parser.add_argument("--csv", metavar="FILE", help=file_help)
