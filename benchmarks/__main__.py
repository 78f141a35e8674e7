"""Measures everything that needs no GPU, and writes tables, pictures and JSON.

    python -m benchmarks [--parts layer growth] [--seconds 10] [--quick --output DIR]

Results go to `benchmarks/results/<machine>.json`, pictures beside it, tables into `benchmarks/RESULTS.md`, whose text
is kept. Parts that are not run keep their last results; `--parts` alone writes tables and pictures again.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from benchmarks import (
    classifier,
    exports,
    extraction,
    gpu,
    growth,
    layer,
    places,
    pooling,
    report,
    search,
    serving,
    throughput,
)
from benchmarks.measuring import ROOT

PARTS = {
    "layer": layer,
    "classifier": classifier,
    "exports": exports,
    "serving": serving,
    "growth": growth,
    "pooling": pooling,
    "throughput": throughput,
    "extraction": extraction,
    "places": places,
    "search": search,
}


def main():
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--seconds", type=float, default=10, help="measuring time of each row (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; needs --output")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="folder (default benchmarks/)")
    parser.add_argument("--digits", type=Path, help="spoken digits for `pooling`, which says where they are from")
    parser.add_argument(
        "--corridor", type=Path, help="pictures of two walks for `places`, which says where they are from"
    )
    options = parser.parse_args()
    if options.quick and options.output == ROOT / "benchmarks":
        parser.error("--quick measures nothing of worth; name another folder with --output")

    machine = report.describe_machine()
    path = options.output / "results" / f"{report.file_name(machine)}.json"
    results = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    results["machine"] = machine
    for name in options.parts:
        start = time.perf_counter()
        data = {"pooling": {"digits": options.digits}, "places": {"corridor": options.corridor}}.get(name, {})
        part = PARTS[name].measure(options.quick, options.seconds, **data)
        results["parts"][name] = {**report.describe_run(), "seconds": time.perf_counter() - start, **part}
        report.write_json(path, results)
    sections = {}
    for name, part in results["parts"].items():
        picture = path.with_name(f"{path.stem}-{name}.png")
        PARTS[name].draw(part).savefig(picture, dpi=100)
        sections[name] = (
            f"{report.provenance(machine, part)}\n\n{PARTS[name].tables(part)}\n\n"
            f"![{PARTS[name].TITLE}](results/{picture.name})"
        )
    on_gpus = [json.loads(file.read_text()) for file in sorted(path.parent.glob("gpu-*.json"))]
    sections["gpu"] = "\n\n".join(gpu.describe(result) for result in on_gpus) or "No GPU was at hand yet."
    tables = options.output / "RESULTS.md"
    if not tables.exists():
        shutil.copy(ROOT / "benchmarks" / "RESULTS.md", tables)
    report.write_sections(tables, sections)
    print(f"{path}\n{tables}")


if __name__ == "__main__":
    main()
