"""Directories of this repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "files"
SUPPORT = ROOT / "tests" / "support"
EXAMPLES = ROOT / "examples"
EXPORT = ROOT / "export"
