"""Assembles the page: sections, navigation and style."""

from importlib import resources

from keras_netvlad._version import __version__
from keras_netvlad.videos.report.markup import Markup, element, join, style_sheet
from keras_netvlad.videos.report.run_files import Run
from keras_netvlad.videos.report.sections.classes import classes
from keras_netvlad.videos.report.sections.clips import clips
from keras_netvlad.videos.report.sections.clusters import clusters
from keras_netvlad.videos.report.sections.details import exports, settings
from keras_netvlad.videos.report.sections.learning import learning_curves
from keras_netvlad.videos.report.sections.neighbors import neighbors
from keras_netvlad.videos.report.sections.summary import headline, summary
from keras_netvlad.videos.report.thumbnails import Thumbnails

# The page may show its own style and images, and may load and run nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NAVIGATION = {
    "learning": "Learning",
    "classes": "Classes",
    "clips": "Clips",
    "clusters": "Clusters",
    "neighbors": "Neighbors",
    "exports": "Exports",
    "settings": "Settings",
}


def page(run: Run, thumbnails: Thumbnails) -> Markup:
    """Returns the report of a run as an HTML document."""
    sections = [
        learning_curves(run),
        classes(run),
        clips(run, thumbnails),
        clusters(run, thumbnails),
        neighbors(run, thumbnails),
        exports(run),
        settings(run),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", headline(run)),
        style_sheet(resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")),
    )
    links = [element("a", text, href=f"#{name}") for name, text in NAVIGATION.items()]
    body = element(
        "body",
        summary(run),
        element("nav", links, aria_label="Sections"),
        element("main", _about_pictures(run, thumbnails), sections),
        element("footer", element("p", f"Written by keras_netvlad {__version__}.")),
    )
    return join(Markup("<!doctype html>\n"), element("html", head, body, lang="en"), Markup("\n"))


def _about_pictures(run, thumbnails):
    """Returns why pictures are missing, or `None`."""
    if thumbnails.reason is not None:
        reason = thumbnails.reason
    elif not run.fps:
        reason = "The run does not record how many frames per second it used."
    elif thumbnails.unreadable:
        examples = sorted(thumbnails.unreadable)
        reason = f"{len(examples)} videos could not be read in {thumbnails.folder}, such as {examples[0]}."
        return element("p", f"Some pictures are missing. {reason}", class_="notice")
    else:
        return None
    return element("p", f"The report has no pictures. {reason}", class_="notice")
