/*
Connects the controls of the page with the frames, the models and the view.
*/

import { nearestClips } from "./features.mjs";
import { cameraPictures, openVideo, sampledPictures } from "./frames.mjs";
import { openModels, readIndex, readSettings } from "./runtime.mjs";
import { View } from "./view.mjs";

// Pictures that the encoder takes at once. The first batch is one picture, so that the first answer comes early.
const BATCH_SIZE = 4;
const NEAREST = 5;

const byId = (id) => document.getElementById(id);
const say = (text) => (byId("state").textContent = text);

let stopping = null; // the controller of the video that is being classified
let view = null;
let index = null;

async function start() {
  const settings = await readSettings();
  const wanted = new URLSearchParams(location.search).get("device");
  const { models, device } = await openModels(settings, ["wasm", "webgpu"].includes(wanted) ? wanted : "auto", say);
  index = await readIndex(settings);
  byId("file").disabled = false;
  byId("camera").disabled = !navigator.mediaDevices?.getUserMedia;
  const place = device === "webgpu" ? "WebGPU" : "WebAssembly";
  say(`Ready. The encoder runs with ${place}.`);
  const sums = models.hasLiveStream
    ? "Scores come from sums over frames."
    : "The pooling of this model has no sums over frames: scores come from all frames so far, without a picture of clusters.";
  byId("about").textContent = `${settings.labels.length} classes, ${settings.fps} frames per second. ${sums}`;
  byId("file").addEventListener("change", () => {
    const [file] = byId("file").files;
    if (file) run((signal) => classifyFile(models, file, signal));
  });
  byId("camera").addEventListener("click", () => run((signal) => classifyCamera(models, signal)));
  byId("stop").addEventListener("click", () => stopping?.abort());
  acceptDrops((file) => run((signal) => classifyFile(models, file, signal)));
}

/** Stops the video that is being classified and begins another one. */
async function run(classify) {
  stopping?.abort();
  const controller = (stopping = new AbortController());
  await running;
  if (controller.signal.aborted) return;
  byId("problem").textContent = "";
  byId("stop").disabled = false;
  running = classify(controller.signal).catch(showProblem).finally(() => {
    byId("stop").disabled = true;
    byId("progress").hidden = true;
  });
}

let running = Promise.resolve();

async function classifyFile(models, file, signal) {
  const video = byId("video");
  byId("answer").textContent = "Reading the video …";
  say(`Reading ${file.name} …`);
  view = new View(models.settings.labels, models.settings.fps);
  release(video);
  try {
    await openVideo(video, file);
  } catch (error) {
    byId("answer").textContent = "No answer.";
    video.hidden = true;
    throw error;
  }
  video.hidden = false;
  await classify(models, sampledPictures(video, models.settings, signal), file.name, signal);
}

async function classifyCamera(models, signal) {
  const video = byId("video");
  view = new View(models.settings.labels, models.settings.fps);
  const camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  try {
    release(video);
    video.chromaShift = 0;
    video.srcObject = camera;
    video.hidden = false;
    await video.play();
    await classify(models, cameraPictures(video, models.settings, signal), "the camera", signal);
  } finally {
    for (const track of camera.getTracks()) track.stop();
  }
}

/** Sends pictures through the models and shows the answers. */
async function classify(models, pictures, name, signal) {
  const stream = models.stream();
  const bar = byId("progress");
  const began = performance.now();
  let batch = [];
  let done = 0;
  let first = null;
  let size = 1;
  const flush = async () => {
    if (!batch.length) return;
    const steps = await stream.add(await models.encode(batch));
    view.add(steps);
    const { descriptor } = steps.at(-1);
    if (index && descriptor) view.showNearest(nearestClips(index, descriptor, NEAREST));
    first ??= performance.now() - began;
    done += batch.length;
    batch = [];
  };
  for await (const { picture, count } of pictures) {
    batch.push(picture);
    if (batch.length >= size) {
      await flush();
      size = count === null ? 1 : BATCH_SIZE;
    }
    if (count !== null) Object.assign(bar, { value: done / count, hidden: false });
    say(count === null ? `${name}: ${done} frames` : `${name}: ${done} of ${count} frames`);
  }
  await flush();
  view.finish();
  const seconds = (performance.now() - began) / 1000;
  const end = signal.aborted ? "Stopped" : "Done";
  if (first === null) return say(`${end}.`);
  say(`${end}: ${name}, ${done} frames in ${seconds.toFixed(1)} s, the first answer after ${(first / 1000).toFixed(1)} s.`);
}

function release(video) {
  URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
}

function acceptDrops(take) {
  const area = byId("drop");
  const mark = (isOver) => (event) => {
    event.preventDefault();
    area.classList.toggle("over", isOver);
  };
  document.addEventListener("dragover", mark(true));
  document.addEventListener("dragleave", mark(false));
  document.addEventListener("drop", (event) => {
    mark(false)(event);
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
}

function showProblem(error) {
  say("");
  byId("problem").textContent = error.message;
}

addEventListener("resize", () => view?.draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.draw());
start().catch(showProblem);
