"""Takes the picture of a report for the documentation, with Chromium.

python docs/make_report_picture.py RUN [--output docs/pictures/report.png]
"""

import argparse
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from keras_netvlad.videos import write_report

WIDTH, HEIGHT = 1100, 1160


def main():
    """Writes the report of a run, and a picture of its beginning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of `keras-netvlad train`")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures" / "report.png")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        parser.error("install Chromium; it draws the report")
    with tempfile.TemporaryDirectory() as folder:
        report, picture = Path(folder, "report.html"), Path(folder, "picture.png")
        write_report(options.run, report)
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile"),
                *(f"--screenshot={picture}", report.as_uri()),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        # 256 colors are a third of the size, and no eye sees the difference.
        content = io.BytesIO()
        Image.open(picture).convert("RGB").quantize(256).save(content, "PNG", optimize=True)
    options.output.write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
