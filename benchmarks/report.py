"""From JSON to what is read: tables between marks in RESULTS.md, and pictures."""

import json
import os
import platform
import re
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path

from benchmarks.measuring import ROOT

PACKAGES = ("tensorflow", "keras", "numpy", "tf2onnx", "onnx", "onnxruntime", "openvino", "torch", "jax")


def describe_machine():
    """Processor, cores, memory."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    processor = names[0] if names else platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "memory_gb": round(memory / 2**30)}


def file_name(machine):
    """Such as `amd-epyc-2-cores`."""
    return re.sub(r"[^a-z0-9]+", "-", f"{machine['processor']} {machine['cores']} cores".lower()).strip("-")


def describe_run():
    """Date, commit and versions."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {"date": date.today().isoformat(), "commit": commit.stdout.strip(), "versions": versions}


def write_json(path, results):
    """Writes results, and the folder for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def write_sections(path, sections):
    """Puts texts between their marks in a Markdown file; all else is kept.

    Args:
        path: Path of the file, which has `<!-- begin <name> -->` and `<!-- end <name> -->` for every section.
        sections: Dict from name to text.
    """
    text = path.read_text()
    for name, body in sections.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{path} must have the marks <!-- begin {name} --> and <!-- end {name} -->")
        text = pattern.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
    path.write_text(text)


def provenance(machine, part):
    """When and on what a part was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items() if version)
    return (
        f"{part['date']}, commit {part['commit']}, {part['seconds'] / 60:.1f} minutes: {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_gb']} GB; {versions}."
    )
