"""A hook of MkDocs that chooses the pages of the site.

A page has the path of its file in the repository, so that relative links lead from page to page as they do on a Git
hosting page. Files and folders that a page links to, such as an example, become pages that show them. Notebooks become
pages with their outputs. Each package with public names gets a page of its docstrings.
"""

import ast
import base64
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = (
    "*.md",
    "docs/*.md",
    "examples/*.md",
    "export/*.md",
    "export/tf_serving/*.md",
    "benchmarks/*.md",
    "keras_netvlad/data/*.md",
)
NOTEBOOKS = "examples/*.ipynb"
ASSETS = "docs/site/style.css", "docs/site/mark.svg"
PICTURES = (".png", ".svg")
LANGUAGES = {".py": "python", ".c": "c", ".cpp": "cpp", ".mjs": "javascript", ".json": "json"}
LINK = re.compile(r"(\]\()([^)#:\s]+)(?=[)#])")


def on_files(files, config):
    """Replaces the files of `docs` by the pages of the site and what they show or link to."""
    docs = Path(config.docs_dir)
    site = Files([file for file in files if docs not in Path(file.abs_src_path).parents])
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in _paths(*PAGES)}
    for path in _paths(NOTEBOOKS):
        texts[f"{path}.md"], pictures = notebook_page(ROOT / path)
        for name, content in pictures.items():
            site.append(File.generated(config, f"examples/{name}", content=content))
    for path, text in texts.items():
        page = File.generated(config, path, content=text)
        page.dest_uri = _address(path)
        site.append(page)
    for package in _paths("keras_netvlad/__init__.py", "keras_netvlad/*/__init__.py"):
        name, text = package_page(ROOT / package)
        if text:
            site.append(File.generated(config, f"api/{name}.md", content=text))
    linked = {target for path, text in texts.items() for target in _links(path, text)}
    for target in sorted({*linked, *ASSETS} - set(texts)):
        if target.endswith(PICTURES) or target in ASSETS:
            site.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
        elif not target.endswith(".ipynb"):
            site.append(File.generated(config, f"source/{target}.md", content=source_page(target)))
    return site


def on_page_markdown(markdown, page, config, files):
    """Returns the text with links to files that are not Markdown turned into links to the pages that show them."""
    folder = posixpath.dirname(page.file.src_uri)

    def to_page(match):
        target = _target(folder, match[2])
        for shown in (f"{target}.md", f"source/{target}.md"):
            if shown in files.src_uris:
                return match[1] + posixpath.relpath(shown, folder or ".")
        return match[0]

    return LINK.sub(to_page, markdown)


def notebook_page(path):
    """Returns the page of a notebook, and its pictures by name."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(_fenced("python", text))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the code above]({name})")
            else:
                parts.append(_fenced("{ .text .output }", "".join(output.get("text", data.get("text/plain", [])))))

    return "\n\n".join(parts) + "\n", pictures


def package_page(path):
    """Returns the name of the page of a package and its text; no text if the package has no public names."""
    module = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        name
        for statement in tree.body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "__all__"
        for name in ast.literal_eval(statement.value)
        if name != "__version__"
    ]
    # A function with the name of its file is found only in the file.
    names = [f"{name}.{name}" if (path.parent / f"{name}.py").exists() else name for name in names]
    text = f"# {module}\n\n{ast.get_docstring(tree)}\n\n" + "\n\n".join(f"::: {module}.{name}" for name in names)
    return module.partition(".")[2] or "index", text if names else ""


def source_page(target):
    """Returns a page that shows a file, or the names of the files of a folder."""
    path = ROOT / target
    if path.is_dir():
        return f"# {target}\n\n" + "\n".join(f"- `{file.name}`" for file in sorted(path.iterdir()))
    return f"# {target}\n\n" + _fenced(LANGUAGES.get(path.suffix, "text"), path.read_text(encoding="utf-8"))


def _fenced(language, text):
    return f"~~~~~~ {language}\n{text.rstrip()}\n~~~~~~"


def _paths(*patterns):
    return sorted(path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern))


def _links(path, text):
    """Yields the files and folders of the repository that a page links to."""
    for _, link in LINK.findall(text):
        target = _target(posixpath.dirname(path), link)
        if (ROOT / target).exists():
            yield target


def _target(folder, link):
    return posixpath.normpath(posixpath.join(folder, link))


def _address(path):
    """Returns the file of the site for a page: README.md -> index.html, docs/layer.md -> layer/index.html."""
    address = path.removeprefix("docs/").removesuffix(".md").removesuffix(".ipynb").lower()
    return posixpath.join(address.removesuffix("readme"), "index.html")
