"""The speed of a run of `train` in the runtimes that classify videos: in Python and on the web page.

    python -m benchmarks.encoders RUN CLIP [--backbone MODEL.keras] [--rounds 15]

RUN is a run of `keras-netvlad train`, CLIP a video. The first table has the encoder alone. All runtimes encode the
same pictures in one interleaved run: eight at a time, and the web page one at a time. LiteRT needs the backbone as a
`.keras` file. The second table has the clip from file to scores, with decoding: in `Predictor`, which predict.py
runs, and on the web page, which is opened anew each time. Needs what `make runtimes` installs, and Chromium.
"""

import argparse
import functools
import http.server
import random
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks import markdown
from benchmarks.measuring import ROOT, quartiles

BATCH, MAX_PICTURES = 8, 16
BASE = "onnxruntime, all cores"
OPEN = """async ([bytes, count]) => {
  const { openModels, readSettings } = await import("/runtime.mjs");
  globalThis.models = (await openModels(await readSettings(), "wasm")).models;
  const all = Uint8Array.from(bytes), size = all.length / count;
  globalThis.pictures = Array.from({ length: count }, (_, index) => all.slice(index * size, (index + 1) * size));
  await models.encode(pictures.slice(0, 1));
}"""
ENCODE = """async () => {
  const start = performance.now();
  for (const picture of pictures) await models.encode([picture]);
  return (performance.now() - start) / 1000;
}"""


def main(arguments=None):
    """Measures and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a run of train")
    parser.add_argument("clip", type=Path, help="video file")
    parser.add_argument("--backbone", type=Path, help="the backbone as a .keras file, for LiteRT")
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (default %(default)s)")
    options = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    from keras_netvlad.data import read_video
    from keras_netvlad.videos import Predictor

    predictor = Predictor(options.run / "predictor")
    size = predictor.settings["size"]
    pictures = np.stack(list(read_video(options.clip, size=size, fps=4, crop_to_aspect_ratio=True)))[:MAX_PICTURES]
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        addresses = dict(_web_pages(options.run, Path(temporary)))
        times = _interleaved(
            {
                **_in_python(predictor.directory / "encoder.onnx", options.backbone, size, Path(temporary), pictures),
                **{name: _encoder_of_page(browser, address, pictures) for name, address in addresses.items()},
            },
            options.rounds,
        )
        clips = _interleaved(
            {
                "predict.py": functools.partial(_classify, predictor.directory, options.clip),
                **{
                    name: functools.partial(_classify_on_page, browser, address, options.clip)
                    for name, address in addresses.items()
                },
            },
            options.rounds,
        )
        browser.close()
    rows = [
        [name, f"{len(pictures) / statistics.median(of_name):.0f}", markdown.ratio(_ratio(of_name, times[BASE]))]
        for name, of_name in times.items()
    ]
    print(markdown.table(["runtime", "pictures per second", f"time over {BASE}"], rows))
    rows = [
        [name, *(f"{statistics.median(part):.2f}" for part in zip(*of_name, strict=True))]
        for name, of_name in clips.items()
    ]
    print()
    print(markdown.table(["program", "seconds until ready", "until the first answer", "frames per second"], rows))


def _interleaved(timed, rounds):
    """Calls all functions in each round, in random order, and returns the results of each. The first round warms up."""
    found = {name: [] for name in timed}
    for number in range(1 + rounds):
        for name in random.sample(list(timed), len(timed)):
            result = timed[name]()
            if number:
                found[name].append(result)
    return found


def _classify(directory, clip):
    """Returns the seconds until the models are open and until the first answer, and frames per second of the clip."""
    from keras_netvlad.videos import Predictor

    begin = time.perf_counter()
    predictor = Predictor(directory)
    ready = time.perf_counter()
    answers = predictor.running_answers(clip, every=1e-3)  # after each frame, as the page
    next(answers)
    first = time.perf_counter()
    count = 1 + sum(1 for _ in answers)
    return ready - begin, first - ready, count / (time.perf_counter() - ready)


def _classify_on_page(browser, address, clip):
    """Returns the same of a page that is opened for it."""
    with browser.new_page() as page:
        begin = time.perf_counter()
        page.goto(f"{address}/index.html?device=wasm")
        page.wait_for_function("() => !document.getElementById('file').disabled")
        ready = time.perf_counter()
        page.set_input_files("#file", clip)
        page.wait_for_function(
            "() => document.getElementById('rows').childElementCount || document.getElementById('problem').textContent"
        )
        if problem := page.inner_text("#problem"):
            raise RuntimeError(f"Chromium must be able to play the clip; give H.264 or VP9. Received: {problem}")
        first = time.perf_counter()
        page.wait_for_function("() => document.getElementById('state').textContent.startsWith('Done')")
        seconds = time.perf_counter() - ready
        return (
            ready - begin,
            first - ready,
            page.evaluate("document.getElementById('rows').childElementCount") / seconds,
        )


def _ratio(times, base):
    return quartiles([one / other for one, other in zip(times, base, strict=True)])


def _in_python(encoder, backbone, size, folder, pictures):
    """Returns a dict from runtimes of Python to functions that encode the pictures and return the seconds it took."""
    import openvino

    def timed(encode):
        def run():
            start = time.perf_counter()
            for first in range(0, len(pictures), BATCH):
                encode(pictures[first : first + BATCH])
            return time.perf_counter() - start

        return run

    found = {}
    for threads, title in ((1, "one thread"), (0, "all cores")):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
        found[f"onnxruntime, {title}"] = timed(lambda images, session=session: session.run(None, {"images": images}))
        settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": 1} if threads else {})}
        compiled = openvino.Core().compile_model(encoder, "CPU", settings)
        found[f"OpenVINO, {title}"] = timed(lambda images, compiled=compiled: compiled([images]))
    if backbone is not None:
        from ai_edge_litert.interpreter import Interpreter

        from keras_netvlad.export import export_litert
        from keras_netvlad.videos.picture_encoder import make_picture_encoder

        path = folder / "encoder.tflite"
        export_litert(make_picture_encoder(backbone, size=size), path)
        for threads, title in ((1, "one thread"), (None, "all cores")):
            encode = Interpreter(str(path), num_threads=threads).get_signature_runner("serving_default")
            found[f"LiteRT, {title}"] = timed(lambda images, encode=encode: encode(images=images))
    return found


def _web_pages(run, folder):
    """Yields names and addresses of pages, of servers that isolate them from other origins or not."""
    from keras_netvlad.videos import write_web_page

    for weights in ("float32", "int8"):
        runtime = ROOT / "export" / "web" / "node_modules" / "onnxruntime-web"
        write_web_page(run, folder / weights, runtime=runtime, encoder_weights=weights)
        for handler, title in ((_Handler, "one thread"), (_IsolatingHandler, "all cores")):
            server = http.server.ThreadingHTTPServer(
                ("127.0.0.1", 0), functools.partial(handler, directory=str(folder / weights))
            )
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"web page, {weights} weights, {title}", f"http://127.0.0.1:{server.server_port}"


def _encoder_of_page(browser, address, pictures):
    """Returns a function as those of `_in_python`, of the encoder on a page."""
    page = browser.new_page()
    page.goto(f"{address}/style.css")
    page.evaluate(OPEN, [pictures.ravel().tolist(), len(pictures)])
    return functools.partial(page.evaluate, ENCODE)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class _IsolatingHandler(_Handler):
    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


if __name__ == "__main__":
    main()
