"""The web page in a real browser: scores as from `Predictor`, phones and keyboards, and nothing from other hosts."""

import base64
import functools
import hashlib
import http.server
import json
import shutil
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from make_features import CLASSES, make_features
from paths import ROOT

from keras_netvlad.__main__ import main
from keras_netvlad.retrieval import DescriptorIndex, index_records
from keras_netvlad.videos import Predictor, train, write_web_page
from keras_netvlad.videos.web import write

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; the extra `runtimes` installs it")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNTIME = ROOT / "export" / "web" / "node_modules" / "onnxruntime-web"
pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium; `apt-get install chromium` installs it"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="no onnxruntime-web; `npm install` in export/web installs it"),
]
# Loads in a software renderer that is part of Chromium, and a camera that shows a test picture.
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
WEBGPU_FLAGS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
SECONDS = 60

# Samples a file with the modules of the page, and returns the pictures in base64.
SAMPLE = """async (file) => {
  const { openVideo, sampledPictures } = await import("/page/frames.mjs");
  const settings = await (await fetch("/page/predictor/predictor.json")).json();
  const video = document.createElement("video");
  video.muted = true;
  await openVideo(video, document.getElementById("file").files[0]);
  const pictures = [];
  for await (const { picture } of sampledPictures(video, settings, new AbortController().signal))
    pictures.push(btoa(Array.from(picture, (byte) => String.fromCharCode(byte)).join("")));
  return pictures;
}"""
# Gives pictures to the models of the page.
CLASSIFY = """async ([site, device, bytes, count]) => {
  const { openModels, readSettings } = await import(`/${site}/runtime.mjs`);
  const { models, device: used } = await openModels(await readSettings(), device);
  const all = Uint8Array.from(bytes);
  const size = all.length / count;
  const pictures = Array.from({ length: count }, (_, index) => all.slice(index * size, (index + 1) * size));
  const steps = await models.stream().add(await models.encode(pictures));
  return [used, steps.map(({ scores, assignments }) => [[...scores], assignments && [...assignments]])];
}"""
PAGE_WIDTHS = """() => ({
  page: document.documentElement.clientWidth, scrolled: document.documentElement.scrollWidth,
  wide: [...document.querySelectorAll("body *")].filter((element) => !element.closest(".scroll") &&
    element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
    .map((element) => element.outerHTML.slice(0, 99)),
  small: [...document.querySelectorAll("body *")].filter((element) => element.childElementCount === 0 &&
    element.textContent.trim() && parseFloat(getComputedStyle(element).fontSize) < 11)
    .map((element) => element.outerHTML.slice(0, 99)),
})"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and stays silent."""

    def log_message(self, *arguments):
        pass


def convert(source, target, codec, options, size=None, rate=10, pixel_width=1):
    """Encodes a clip so that Chromium decodes it, with few losses."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = size or (reader.streams.video[0].width, reader.streams.video[0].height)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_width)
        for number, frame in enumerate(reader.decode(video=0)):
            picture = frame.reformat(stream.width, stream.height, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, rate)
            writer.mux(stream.encode(picture))
        writer.mux(stream.encode())
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def predictor(folder):
    """A predictor with random weights of the encoder, and an index of its clips."""
    features = make_features(folder)
    train(features, folder / "run", num_clusters=3, epochs=3, batch_size=4, verbose=0)
    index = index_records(features, folder / "run" / "predictor" / "classifier.onnx")
    index.save(folder / "clips.npz")
    return Predictor(folder / "run" / "predictor")


@pytest.fixture(scope="module")
def clips(folder, predictor):
    """Clips whose frames are scaled by averages and by splines, to even and odd widths, from each kind of file."""
    first, second = (folder / "videos" / name for name in ("temple/temple_00.mp4", "flower/flower_01.mp4"))
    vp9 = {"crf": "4", "b": "0", "cpu-used": "8"}
    return {
        "vp9": convert(first, folder / "vp9.webm", "libvpx-vp9", vp9),
        "vp8": convert(second, folder / "vp8.webm", "libvpx", {"crf": "4", "b": "2M"}),
        "h264": convert(first, folder / "h264.mp4", "libx264", {"crf": "4"}),
        "small": convert(second, folder / "small.webm", "libvpx-vp9", vp9, size=(20, 18)),
        "wide_pixels": convert(
            first, folder / "wide_pixels.mp4", "libx264", {"crf": "4"}, pixel_width=Fraction(12, 11)
        ),
        "even": convert(first, folder / "even.webm", "libvpx-vp9", vp9, size=(180, 120), rate=7),
    }


@pytest.fixture(scope="module")
def site(folder, predictor):
    """A server with the page, and with one for a predictor without sums over frames."""
    write_web_page(folder / "run", folder / "site" / "page", index=folder / "clips.npz", runtime=RUNTIME)
    whole = folder / "without_sums"
    shutil.copytree(predictor.directory, whole)
    settings = json.loads((whole / "predictor.json").read_text())
    settings["files"] = {name: settings["files"][name] for name in ("encoder.onnx", "classifier.onnx")}
    (whole / "predictor.json").write_text(json.dumps(settings))
    write_web_page(whole, folder / "site" / "whole", runtime=RUNTIME)
    for weights in ("float16", "int8"):
        write_web_page(folder / "run", folder / "site" / weights, runtime=RUNTIME, encoder_weights=weights)
    handler = functools.partial(Handler, directory=str(folder / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browsers():
    """Starts browsers, one for each list of flags."""
    with playwright.sync_playwright() as runner:
        started = {}

        def start(*flags):
            if flags not in started:
                started[flags] = runner.chromium.launch(
                    executable_path=BROWSER, args=[*FLAGS, *flags], timeout=SECONDS * 1000
                )
            return started[flags]

        yield start
        for browser in started.values():
            browser.close()


@pytest.fixture
def open_page(browsers, site):
    """Opens a page, and checks in the end that it logged no error and asked no other host."""
    opened = []

    def start(path, *flags, width=1280, scheme="light", errors=0):
        context = browsers(*flags).new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        logged, requests = [], []
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        opened.append((context, logged, requests, errors))
        page.goto(f"{site}/{path}")
        page.wait_for_function(
            "() => !document.getElementById('file').disabled || document.getElementById('problem').textContent"
        )
        return page

    yield start
    for context, logged, requests, errors in opened:
        context.close()
        assert len(logged) == errors, logged
        assert requests
        assert [url for url in requests if not url.startswith((site, "blob:", "data:"))] == []


def classify(page, clip):
    """Lets the page classify a file and returns the content of its JSON file."""
    page.set_input_files("#file", clip)
    page.wait_for_function(
        "name => document.getElementById('state').textContent.startsWith(`Done: ${name},`) || "
        "document.getElementById('problem').textContent",
        arg=clip.name,
    )
    assert page.inner_text("#problem") == ""
    return page.evaluate("async () => (await fetch(document.getElementById('download').href)).json()")


def running_assignments(predictor, clip):
    """The assignments of each frame to clusters, from the sums of one frame at a time."""
    features = np.concatenate([predictor.encode(frames) for frames in predictor._batches(clip, 8)])
    sums = {}
    for row in features:
        inputs = {"rgb": row[None, None], "num_frames": np.array([1], "int32")}
        shapes = {port.name: [1, *port.shape[1:]] for port in predictor.accumulate.get_inputs() if "past" in port.name}
        outputs = predictor.accumulate.run(
            ["rgb_second_sum"], {**inputs, **{name: np.zeros(shape, "float32") for name, shape in shapes.items()}}
        )
        sums.setdefault("rows", []).append(outputs[0][0])
    return np.stack(sums["rows"])


@pytest.mark.parametrize("name", ["vp9", "vp8", "h264", "small", "even", "wide_pixels"])
def test_sampled_pictures_are_those_of_ffmpeg(open_page, predictor, clips, name):
    page = open_page("page/index.html?device=wasm")
    page.set_input_files("#file", clips[name])
    page.wait_for_function("() => document.getElementById('state').textContent.startsWith('Done')")
    pictures = [np.frombuffer(base64.b64decode(picture), "uint8") for picture in page.evaluate(SAMPLE)]
    expected = np.concatenate(list(predictor._batches(clips[name], 8)))
    assert len(pictures) == len(expected)
    difference = np.abs(np.stack(pictures).reshape(expected.shape).astype(int) - expected)
    # Measured: at most 3, and 0.012 on average.
    assert difference.max() <= 3
    assert difference.mean() < 0.05


@pytest.mark.parametrize("name", ["vp9", "h264", "even"])
def test_scores_are_those_of_the_predictor(open_page, predictor, clips, name):
    found = classify(open_page("page/index.html?device=wasm"), clips[name])
    assert found["labels"] == list(CLASSES)
    running = list(predictor.running_answers(clips[name], every=0.5))
    assert [answer["second"] for answer in found["answers"]] == [answer.second for answer in running]
    scores = np.array([answer["scores"] for answer in found["answers"]])
    # Measured 1.0e-3 for "even", whose pixels FFmpeg's fast code rounds in its own way. docs/web.md has the differences
    # with real weights.
    bound = 2e-3 if name == "even" else 1e-3
    np.testing.assert_allclose(scores, [answer.scores for answer in running], atol=bound)
    np.testing.assert_allclose(scores[-1], predictor.predict(clips[name]).scores, atol=bound)
    assignments = np.array([answer["assignments"] for answer in found["answers"]])
    np.testing.assert_allclose(assignments.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(assignments, running_assignments(predictor, clips[name]), atol=2e-2)


def test_the_page_shows_what_it_found(open_page, predictor, clips, folder):
    page = open_page("page/index.html?device=wasm")
    classify(page, clips["vp9"])
    scores = predictor.predict(clips["vp9"]).scores
    best = CLASSES[scores.argmax()]
    assert page.inner_text("#answer").startswith(f"{best} (")
    assert page.locator("#best li").count() == 3
    page.click("summary")
    rows = page.locator("#rows tr").all_inner_texts()
    assert len(rows) == len(list(predictor.running_answers(clips["vp9"], every=0.5)))
    assert rows[-1].split()[1] == best
    assert float(rows[-1].split()[2]) == pytest.approx(scores.max(), abs=2e-3)
    index = DescriptorIndex.load(folder / "clips.npz")
    ids, similarities = index.search(predictor.descriptor(clips["vp9"])[None], 5)
    shown = [text.split() for text in page.locator("#clips li").all_inner_texts()]
    np.testing.assert_allclose([float(value) for _, value in shown], similarities[0], atol=2e-3)
    assert shown[0][0] == ids[0][0]


@pytest.mark.parametrize("site_name", ["page", "whole"])
def test_the_models_compute_what_they_compute_in_python(open_page, predictor, site_name):
    page = open_page("page/index.html?device=wasm")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), "uint8")
    used, steps = page.evaluate(CLASSIFY, [site_name, "wasm", pictures.ravel().tolist(), len(pictures)])
    features = predictor.encode(pictures)
    assert used == "wasm"
    np.testing.assert_allclose(steps[-1][0], predictor.classify(features), atol=1e-4)
    running = list(predictor.accumulated([row[None] for row in features]))
    if site_name == "page":
        np.testing.assert_allclose([scores for scores, _ in steps], running, atol=1e-4)
    else:
        assert [assignments for _, assignments in steps] == [None] * 5


@pytest.mark.parametrize(("site_name", "bound"), [("page", 0), ("float16", 2e-3), ("int8", 5e-2)])
def test_an_encoder_in_fewer_bytes_gives_scores_nearby(open_page, folder, predictor, site_name, bound):
    files = folder / "site" / site_name / "predictor"
    content = (files / "encoder.onnx").read_bytes()
    settings = json.loads((files / "predictor.json").read_text())
    assert settings["files"]["encoder.onnx"] == hashlib.sha256(content).hexdigest()
    original = (predictor.directory / "encoder.onnx").read_bytes()
    assert content == original if site_name == "page" else len(content) < len(original)
    page = open_page(f"{site_name}/index.html?device=wasm")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), "uint8")
    _, steps = page.evaluate(CLASSIFY, [site_name, "wasm", pictures.ravel().tolist(), len(pictures)])
    # The browser rounds as onnxruntime does for Python, and features that are rounded to bytes add up to 1e-3.
    np.testing.assert_allclose(steps[-1][0], predictor.classify(predictor.encode(pictures)), atol=1e-4 + bound)


def test_an_encoder_that_another_precision_would_change_is_not_written(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(write.WEIGHTS, "int8", 1e-6)
    message = (
        r"Weights in int8 may change the encoder's features by at most 0% of the largest; store them in float16 or"
    )
    with pytest.raises(ValueError, match=message):
        write_web_page(folder / "run", tmp_path / "page", runtime=RUNTIME, encoder_weights="int8")
    assert not (tmp_path / "page").exists()


def test_features_are_rounded_as_in_python(open_page):
    page = open_page("page/index.html?device=wasm")
    rng = np.random.default_rng(0)
    steps = np.arange(-3, 260) * (4 / 255) + 4 / 512 - 2  # the middles of levels, and those between them
    values = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-9, 6, 500), steps, steps + 2 / 255])
    values = np.concatenate([values, [0, 65519, 65520, -65520, 2**-24, 2**-25, 3 * 2**-25]]).astype("float32")
    quantized, halves = page.evaluate(
        """async (values) => {
          const { quantized, roundedToHalf } = await import("/page/features.mjs");
          const features = Float32Array.from(values);
          return [[...quantized(features)], [...roundedToHalf(features)].map(String)];
        }""",
        values.tolist(),
    )
    levels = (np.clip(values.astype("float64"), -2, 2) - (4 / 512 - 2)) / (4 / 255)
    np.testing.assert_array_equal(quantized, np.clip(np.rint(levels), 0, 255))
    with np.errstate(over="ignore"):
        expected = values.astype("float16").astype("float32")
    np.testing.assert_array_equal(np.array([float(text) for text in halves], "float32"), expected)


def test_a_predictor_without_sums_has_no_assignments(open_page, predictor, clips):
    page = open_page("whole/index.html?device=wasm")
    found = classify(page, clips["vp9"])
    np.testing.assert_allclose(found["answers"][-1]["scores"], predictor.predict(clips["vp9"]).scores, atol=1e-3)
    assert found["answers"][-1]["assignments"] is None
    assert page.is_hidden("#clusters")
    assert page.is_visible("#curves")
    assert "no sums over frames" in page.inner_text("#about")


def test_webgpu_gives_the_same_scores(open_page, browsers, site, predictor, clips):
    probe = browsers(*WEBGPU_FLAGS).new_page()
    probe.goto(f"{site}/page/style.css")
    has_adapter = probe.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())")
    probe.close()
    if not has_adapter:
        pytest.skip("Chromium offers no WebGPU adapter; it needs SwiftShader's Vulkan driver")
    page = open_page("page/index.html?device=webgpu", *WEBGPU_FLAGS)
    assert page.inner_text("#state") == "Ready. The encoder runs with WebGPU."
    found = classify(page, clips["vp9"])
    np.testing.assert_allclose(found["answers"][-1]["scores"], predictor.predict(clips["vp9"]).scores, atol=1e-3)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), "uint8")
    used, steps = page.evaluate(CLASSIFY, ["page", "webgpu", pictures.ravel().tolist(), len(pictures)])
    assert used == "webgpu"
    np.testing.assert_allclose(steps[-1][0], predictor.classify(predictor.encode(pictures)), atol=1e-4)


def test_a_software_renderer_is_not_preferred(open_page):
    page = open_page("page/index.html", *WEBGPU_FLAGS)
    assert page.inner_text("#state") == "Ready. The encoder runs with WebAssembly."


@pytest.mark.parametrize("content", [b"no video", b"", b"\x1a\x45\xdf\xa3 broken"])
def test_a_file_that_is_no_video_is_one_sentence(open_page, clips, tmp_path, content):
    page = open_page("page/index.html?device=wasm")
    (tmp_path / "notes.webm").write_bytes(content)
    page.set_input_files("#file", tmp_path / "notes.webm")
    page.wait_for_function("() => document.getElementById('problem').textContent")
    problem = "a file that this browser cannot play" if content else "an empty file"
    assert page.inner_text("#problem") == (
        f"Choose a complete video that this browser plays. Received: {problem}, notes.webm."
    )
    classify(page, clips["vp9"])  # the next file is classified


@pytest.mark.parametrize("name", ["predictor.json", "encoder.onnx", "describe.onnx"])
def test_a_missing_or_exchanged_file_is_one_sentence(open_page, folder, name):
    copy = folder / "site" / f"without_{name}"
    shutil.copytree(folder / "site" / "page", copy, ignore=shutil.ignore_patterns(name))
    page = open_page(f"without_{name}/index.html?device=wasm", errors=1)  # Chromium logs the 404
    assert page.inner_text("#problem") == (
        f"The folder of this page must be complete; build it again. Received: no file predictor/{name}."
    )
    assert page.is_disabled("#file")
    if name != "predictor.json":
        (copy / "predictor" / name).write_bytes(b"another")
        page = open_page(f"without_{name}/index.html?device=wasm")
        assert page.inner_text("#problem").startswith("The files of a predictor belong together; build the page again.")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_and_needs_no_mouse(open_page, clips, width, scheme):
    page = open_page("page/index.html?device=wasm", width=width, scheme=scheme)
    classify(page, clips["vp9"])
    page.locator("summary").press("Enter")
    assert page.is_visible("#rows tr:last-child")
    measured = page.evaluate(PAGE_WIDTHS)
    assert measured["scrolled"] == measured["page"] == width
    assert measured["wide"] == []
    assert measured["small"] == []
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(253, 253, 252)", "dark": "rgb(21, 23, 26)"}[scheme]
    page.evaluate("() => document.activeElement.blur()")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "camera", "download", "SUMMARY"} <= set(reached)
    assert page.get_by_label("Choose a video, or drop one here").count() == 1
    assert page.locator("[role=status]").get_attribute("aria-live") == "polite"
    for canvas in page.locator("canvas").all():
        assert "the table below" in canvas.get_attribute("aria-label")
        inked = "(canvas) => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
        assert canvas.evaluate(inked) > 5


def test_a_dropped_file_replaces_the_video_before_it(open_page, predictor, clips):
    page = open_page("page/index.html?device=wasm")
    page.set_input_files("#file", clips["vp9"])
    content = base64.b64encode(clips["vp8"].read_bytes()).decode()
    page.evaluate(
        """async (content) => {
          const blob = await (await fetch(`data:video/webm;base64,${content}`)).blob();
          const transfer = new DataTransfer();
          transfer.items.add(new File([blob], "dropped.webm", { type: "video/webm" }));
          const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", options));
        }""",
        content,
    )
    page.wait_for_function("() => document.getElementById('state').textContent.startsWith('Done: dropped.webm')")
    rows = page.locator("#rows tr").count()
    assert rows == len(list(predictor.running_answers(clips["vp8"], every=0.5)))


def test_the_camera_is_classified_until_it_is_stopped(open_page):
    page = open_page("page/index.html?device=wasm")
    page.click("#camera")
    page.wait_for_function("() => document.getElementById('rows').childElementCount >= 3")
    page.click("#stop")
    page.wait_for_function("() => document.getElementById('state').textContent.startsWith('Stopped: the camera')")
    assert page.evaluate("() => document.getElementById('video').srcObject.getTracks()[0].readyState") == "ended"


def test_npm_installs_the_runtime(predictor, tmp_path, capsys):
    assert main(["web", str(predictor.directory), str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    assert (tmp_path / "page" / "runtime" / "ort-wasm-simd-threaded.wasm").stat().st_size > 10**6
