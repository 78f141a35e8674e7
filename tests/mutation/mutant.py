"""`Mutant`: one change of the code that a test must notice."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A single-point change of a file, and the tests that must fail with it.

    Attributes:
        file: Path of the changed file, relative to the repository.
        source: Text of the file, which occurs exactly once.
        replacement: Text that replaces it.
        tests: Node IDs of the tests to run, relative to the repository.
        equivalent: Why no test can notice the change; empty if a test must.
    """

    file: str
    source: str
    replacement: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {_line(self.source)} -> {_line(self.replacement)}"

    def is_stale(self, root: Path) -> bool:
        """Returns whether the text does not occur exactly once in the file, or a test does not exist."""
        path = root / self.file
        if not path.is_file() or path.read_text().count(self.source) != 1 or self.source == self.replacement:
            return True
        return not all(_exists(root, test) for test in self.tests)

    def applied(self, text: str) -> str:
        """Returns the text of the file with the change."""
        return text.replace(self.source, self.replacement)


def _exists(root, test):
    file, _, name = test.partition("::")
    return (root / file).is_file() and (not name or f"def {name}(" in (root / file).read_text())


def _line(text):
    return " ".join(text.split()) or "nothing"
