/*
Loads the files of a predictor and opens its models with onnxruntime-web: the encoder on WebGPU where there is one, all
else with WebAssembly.
*/

import { Models } from "./features.mjs";

// Largest relative difference of features between WebGPU and WebAssembly. Measured: 1e-6.
const TOLERANCE = 1e-3;

/** Reads predictor.json. */
export async function readSettings(folder = "predictor/") {
  return JSON.parse(new TextDecoder().decode(await download(`${folder}predictor.json`)));
}

/**
 * Opens the models of a predictor.
 *
 * @param {object} settings Content of predictor.json.
 * @param {"auto" | "webgpu" | "wasm"} device Where the encoder runs; "auto" is WebGPU if a graphics card offers it.
 * @param {(text: string) => void} report Receives what is being done.
 * @returns {Promise<{models: Models, device: string}>}
 */
export async function openModels(settings, device = "auto", report = () => {}, folder = "predictor/") {
  const adapter = device === "wasm" ? null : await navigator.gpu?.requestAdapter();
  const isWanted = adapter && (device === "webgpu" || !adapter.info?.isFallbackAdapter);
  if (device === "webgpu" && !adapter)
    throw new Error("WebGPU needs a browser and a graphics card that offer it; open the page with ?device=wasm.");
  const ort = await loadRuntime(isWanted ? "webgpu" : "wasm");
  const files = {};
  for (const [name, digest] of Object.entries(settings.files)) {
    report(`Loading ${name} …`);
    files[name] = await download(folder + name);
    await check(name, files[name], digest);
  }
  const sessions = {};
  const open = (name, provider) => ort.InferenceSession.create(files[name], { executionProviders: [provider] });
  for (const name of Object.keys(files)) {
    report(`Opening ${name} …`);
    sessions[name.replace(".onnx", "")] = await open(name, "wasm");
  }
  const models = new Models(ort, settings, sessions);
  if (!isWanted) return { models, device: "wasm" };
  report("Comparing WebGPU with WebAssembly …");
  const onWasm = sessions.encoder;
  try {
    const onGpu = await open("encoder.onnx", "webgpu");
    if (await agree(ort, settings, onWasm, onGpu)) {
      sessions.encoder = onGpu;
      await onWasm.release();
      return { models, device: "webgpu" };
    }
    await onGpu.release();
  } catch (error) {
    console.warn(`WebGPU cannot run the encoder: ${error.message}`);
  }
  return { models, device: "wasm" };
}

/** Reads the descriptors of the clips of an index; null if the page has none. */
export async function readIndex(settings, folder = "predictor/") {
  if (!settings.index) return null;
  const content = await download(`${folder}index.bin`);
  return { names: settings.index, values: new Float32Array(content.buffer) };
}

async function loadRuntime(kind) {
  const path = new URL("runtime/", import.meta.url).href;
  let ort;
  try {
    ort = await import(`${path}ort.${kind}.min.mjs`);
  } catch {
    throw new Error(`The folder of this page must be complete; build it again. Received: no runtime/ort.${kind}.min.mjs.`);
  }
  ort.env.wasm.wasmPaths = path;
  ort.env.logLevel = "error";
  // Threads need a server that isolates the page from other origins.
  if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1;
  return ort;
}

async function download(path) {
  let answer;
  try {
    answer = await fetch(new URL(path, import.meta.url));
  } catch {
    throw new Error(`The server of this page must run; start it again. Received: no answer for ${path}.`);
  }
  if (!answer.ok)
    throw new Error(`The folder of this page must be complete; build it again. Received: no file ${path}.`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Compares a file with its SHA-256, which browsers compute for https and localhost only. */
async function check(name, content, digest) {
  if (!globalThis.crypto?.subtle) return;
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  if (Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("") !== digest)
    throw new Error(`The files of a predictor belong together; build the page again. Received: another ${name}.`);
}

/** Whether two encoders give the same features for a picture of noise. */
async function agree(ort, { size }, one, other) {
  const picture = Uint8Array.from({ length: size * size * 3 }, (_, index) => (index * 7919) % 251);
  const values = [];
  for (const session of [one, other]) {
    const images = new ort.Tensor("uint8", picture, [1, size, size, 3]);
    values.push((await session.run({ images })).features.data);
  }
  const largest = values[0].reduce((found, value) => Math.max(found, Math.abs(value)), 1e-6);
  return values[0].every((value, index) => Math.abs(value - values[1][index]) <= TOLERANCE * largest);
}
