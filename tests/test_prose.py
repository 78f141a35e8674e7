"""The language of documentation, docstrings, comments and messages: phrases that readers in a hurry stumble over."""

import re

import pytest
from paths import ROOT

# Each phrase with what to write instead. `make lint` checks spelling.
AVOID = {
    r"\bbeside\b": "next to, compared with",
    r"\bof one's own\b": "your",
    r"\bgo(es|ne)? on (from|with|where)\b|\b(command|run|training|it) goes on\b": "continue, resume",
    r"\bcomes? to the same\b": "gives the same",
    r"\bnone of the above\b": "invalid",
    r"\bwhole or not at all\b": "complete or absent",
    r"\bthe judge\b": "the reference",
    r"\bto look at\b": "to inspect",
    r"\bwhat counts\b": "a sentence with a subject and a verb",
    r"^\s*(\"\"\"|# )What (?![^\n]*\?)": "a sentence with a subject and a verb",
    r"\bwithout a word\b": "without a message",
    r"\bat hand\b": "available",
    r"\bnothing but\b": "only",
    r"\b(and|or) the like\b": "and similar",
    r"\bkeeps? its digits\b": "stays accurate",
    r"\b[Ss]ees to it\b": "ensures",
    r"\b(is|are) told to\b": "a sentence that says who does what",
    r"\bin want of\b": "without",
    r"\bwould have had\b": "has",
    r"\b(one|two|ten|frames|videos|value|integer|session) a (second|minute|frame|video|process|position|row)\b": "per",
    r"\b(which is|that is|request is|record is|pipe is|which are) no (?!longer|more|larger)": "is not a, is not",
    r"\b(in )?a [a-z]+ of their own\b|\ba [a-z]+ of its own\b": "a separate one, another",
    r"\b(all|every) ([a-z_]+ )?but (the|for|`)": "except",
    r"\bshar(e|es|ed) out\b": "divide, assign",
    r"\bsays? little\b": "is uninformative",
    r"\bknows? no\b": "has no",
    r"\bthe surer\b": "a higher score is more certain",
    r"\bin vain\b": "without success",
    r"\bthe smallest [a-z]+ that counts\b": "the lower bound",
    r"\bbut for\b": "except for",
    r"\bcan't\b": "cannot",
    r"\b(that|which) (is|are) no (?!longer|more|larger)": "is not a, are not",
    r"\bone value a cluster\b": "one value for each cluster",
    r"^\s*- What (?![^\n]*\?)": "a sentence with a subject and a verb",
}
FOLDERS = ("docs", "examples", "export", "keras_netvlad")


def pages():
    """Documentation and code that users read. Generated tables of benchmarks and the tests are left out."""
    found = [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "setup.cfg"]
    for folder in FOLDERS:
        found += [path for ending in ("md", "py", "ipynb") for path in (ROOT / folder).rglob(f"*.{ending}")]
    return sorted(path for path in found if "node_modules" not in path.parts)


def prose(text):
    """Text without blocks of code, names in backticks, links and files."""
    text = re.sub(r"```.*?```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|[\w/]*\.md", "", text)


def complaints(name, text):
    found = [
        f"{name}:{text.count(chr(10), 0, match.end()) + 1}: {match.group().strip()!r}; write: {instead}"
        for phrase, instead in AVOID.items()
        for match in re.finditer(phrase, text, flags=re.MULTILINE | re.IGNORECASE)
    ]
    if name.endswith(".md"):  # In code, `artefact` is the spelling of public names.
        found += [f"{name}: 'artefact'; write: artifact" for _ in re.findall(r"artefact", prose(text), re.IGNORECASE)]
    return found


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("page.md", "NetVLAD stands beside mean pooling.", 1),
        ("code.py", '    """What a server is told to do."""', 2),
        ("page.md", "# What is NetVLAD?", 0),
        ("page.md", "The artefact, `Artefact` and [a page](artefacts.md)", 1),
        ("code.py", "artefact = Artefact(path)", 0),
    ],
)
def test_the_phrases_are_found(name, text, count):
    assert len(complaints(name, text)) == count


def test_text_avoids_phrases_that_are_hard_to_read():
    found = [line for page in pages() for line in complaints(str(page.relative_to(ROOT)), page.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
