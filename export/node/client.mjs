/*
Runs an ONNX model on videos, in Node. Needs only onnxruntime-node.

    npm install
    node client.mjs MODEL.onnx INPUTS.json > OUTPUTS.json

INPUTS.json has the format of TensorFlow Serving's REST interface, {"inputs": {"frames": [[[...]]], "num_frames": [...]}}: one
nested list for each input of the model, the batch first. The answer has the same form, {"outputs": {"scores": [[...]]}}.
JSON has no NaN: `null` stands for it, both ways.
*/

import { readFile } from "node:fs/promises";

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
};

class UserError extends Error {}

async function main(args) {
  if (args.length !== 2) throw new UserError("Expected two arguments, MODEL.onnx INPUTS.json. Received: " + args.length);
  const ort = await importRuntime();
  const inputs = await readInputs(args[1]);
  const session = await openModel(ort, args[0]);
  const feeds = makeFeeds(ort, session.inputMetadata, inputs);
  const results = await session.run(feeds);
  const outputs = {};
  for (const [name, { data, dims }] of Object.entries(results)) outputs[name] = nest(Array.from(data, Number), dims);
  console.log(JSON.stringify({ outputs }));
}

async function importRuntime() {
  try {
    return (await import("onnxruntime-node")).default;
  } catch (error) {
    throw new UserError(`onnxruntime-node must be installed next to this file: npm install. Received: ${error.message}`);
  }
}

async function readInputs(path) {
  let inputs;
  try {
    inputs = JSON.parse(await readFile(path, "utf8"))?.inputs;
  } catch (error) {
    throw new UserError(`The inputs must be a JSON file, with null for NaN. Received: ${path} (${error.message})`);
  }
  if (!inputs || typeof inputs !== "object" || Array.isArray(inputs))
    throw new UserError(`The file must hold {"inputs": {NAME: nested list, ...}}. Received: ${path}`);
  return inputs;
}

async function openModel(ort, path) {
  try {
    return await ort.InferenceSession.create(path, { logSeverityLevel: 4 });
  } catch (error) {
    throw new UserError(`The model must be an ONNX file, whole and readable. Received: ${path} (${error.message})`);
  }
}

/** Tensors for the inputs of a model; throws if one is missing, too many, or of another shape. */
function makeFeeds(ort, metadata, inputs) {
  const expected = metadata.map(({ name }) => name).sort();
  const received = Object.keys(inputs).sort();
  if (expected.join() !== received.join())
    throw new UserError(`The inputs must be the model's, [${expected.join(", ")}]. Received: [${received.join(", ")}]`);
  const sizes = {}; // of the named axes: inputs share them
  const feeds = {};
  for (const { name, type, shape } of metadata) {
    const dims = shapeOf(inputs[name]);
    const fits = (size, axis) => (typeof size === "number" && size >= 0 ? size : (sizes[size || name + axis] ??= dims[axis]));
    if (dims.length !== shape.length || shape.some((size, axis) => fits(size, axis) !== dims[axis]))
      throw new UserError(`Input ${name} must be of shape (${describe(shape, sizes)}). Received: (${dims.join(", ")})`);
    feeds[name] = new ort.Tensor(type, toArray(name, type, inputs[name], dims), dims);
  }
  return feeds;
}

function shapeOf(values) {
  return Array.isArray(values) ? [values.length, ...shapeOf(values[0])] : [];
}

function describe(shape, sizes) {
  return shape.map((size) => (sizes[size] === undefined ? size : `${size} = ${sizes[size]}`)).join(", ");
}

function toArray(name, type, values, dims) {
  if (!(type in ARRAYS))
    throw new UserError(`Input ${name} must be of one of the types ${Object.keys(ARRAYS).join(", ")}. Received: ${type}`);
  const numbers = [];
  flatten(name, values, dims, numbers);
  const isFloat = type.startsWith("float");
  const array = new ARRAYS[type](numbers.length);
  for (const [index, number] of numbers.entries()) {
    if (isFloat && number === null) array[index] = NaN;
    else if (typeof number !== "number" || !(isFloat || Number.isInteger(number)))
      throw new UserError(`Input ${name} must hold ${type} numbers only. Received: ${JSON.stringify(number)}`);
    else array[index] = type === "int64" ? BigInt(number) : number;
    // A typed array wraps what is too large around in silence.
    if (!isFloat && Number(array[index]) !== number)
      throw new UserError(`Input ${name} must hold numbers that fit ${type}. Received: ${number}`);
  }
  return array;
}

/** Appends the numbers of a nested list, whose lists all have the lengths that its first ones have. */
function flatten(name, values, [length, ...rest], numbers) {
  if (!Array.isArray(values) || values.length !== length)
    throw new UserError(
      `Input ${name} must have rows of equal length: pad frames and say in num_frames how many are real. ` +
        `Received: ${Array.isArray(values) ? values.length : JSON.stringify(values)} beside ${length}`,
    );
  if (rest.length === 0) for (const value of values) numbers.push(value);
  else for (const value of values) flatten(name, value, rest, numbers);
}

function nest(numbers, [, ...rest]) {
  if (rest.length === 0) return numbers;
  const size = rest.reduce((product, length) => product * length, 1);
  return Array.from({ length: numbers.length / size }, (_, row) => nest(numbers.slice(row * size, (row + 1) * size), rest));
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  // onnxruntime's own words may span lines.
  console.error(`client: ${error.message.replace(/\s+/g, " ")}`);
  process.exitCode = 1;
}
