/*
Runs the models of a predictor: frames to features, features to sums, sums to scores. It follows predict.py.
*/

import { roundHalfEven } from "./pixels.mjs";

// Bytes stand for the 256 levels of YouTube-8M between -2 and 2.
const LOWEST = -2;
const HIGHEST = 2;
const SCALE = (HIGHEST - LOWEST) / 255;
const OFFSET = (HIGHEST - LOWEST) / 512 + LOWEST;

/** Features as the bytes that the classifier was trained on. */
export function quantized(features) {
  const bytes = new Uint8Array(features.length);
  for (let index = 0; index < features.length; index++) {
    const level = (Math.min(Math.max(features[index], LOWEST), HIGHEST) - OFFSET) / SCALE;
    bytes[index] = Math.min(Math.max(roundHalfEven(level), 0), 255);
  }
  return bytes;
}

/** Features rounded to the precision of float16, halves to even, as float32. */
export function roundedToHalf(features) {
  return Float32Array.from(features, (value) => {
    const size = Math.abs(value);
    if (size === 0 || !Number.isFinite(value)) return value;
    const unit = 2 ** (Math.max(Math.floor(Math.log2(size)), -14) - 10);
    const rounded = roundHalfEven(size / unit) * unit;
    return Math.sign(value) * (rounded > 65504 ? Infinity : rounded);
  });
}


/** The models of a predictor, opened by onnxruntime-web. */
export class Models {
  /**
   * @param {object} ort The module onnxruntime-web.
   * @param {object} settings Content of predictor.json.
   * @param {object} sessions Sessions by the names of the models: encoder, classifier, accumulate and describe.
   */
  constructor(ort, settings, sessions) {
    Object.assign(this, { ort, settings, sessions });
    this.hasLiveStream = "accumulate" in sessions;
  }

  /**
   * Features of pictures, one array for each picture, in the dtype of the records for training.
   *
   * @param {Uint8Array[]} pictures Pictures of `size * size * 3` bytes.
   */
  async encode(pictures) {
    const { size, dtype } = this.settings;
    const length = size * size * 3;
    const images = new Uint8Array(pictures.length * length);
    pictures.forEach((picture, index) => images.set(picture, index * length));
    const tensor = new this.ort.Tensor("uint8", images, [pictures.length, size, size, 3]);
    const { features } = await this.sessions.encoder.run({ images: tensor });
    const values = dtype === "uint8" ? quantized(features.data) : roundedToHalf(features.data);
    const perPicture = values.length / pictures.length;
    return pictures.map((_, index) => values.slice(index * perPicture, (index + 1) * perPicture));
  }

  /** Inputs of the classifier for some pictures. */
  inputs(features) {
    const { stream, dtype, positions } = this.settings;
    const perPicture = features[0].length;
    const rows = features.length * positions;
    const values = new features[0].constructor(features.length * perPicture);
    features.forEach((part, index) => values.set(part, index * perPicture));
    return {
      [stream]: new this.ort.Tensor(dtype === "uint8" ? "uint8" : "float32", values, [1, rows, perPicture / positions]),
      num_frames: new this.ort.Tensor("int32", Int32Array.of(rows), [1]),
    };
  }

  /** Scores and descriptor of the features of all pictures at once. */
  async classify(features) {
    const { scores, descriptor } = await this.sessions.classifier.run(this.inputs(features));
    return { scores: scores.data, descriptor: descriptor?.data };
  }

  /** Returns an object that takes features one picture after the other and gives the scores so far. */
  stream() {
    return this.hasLiveStream ? new RunningSums(this) : new AllFeatures(this);
  }
}

/** Scores from sums over frames, in constant memory. */
class RunningSums {
  constructor(models) {
    this.models = models;
    const { accumulate } = models.sessions;
    this.names = accumulate.outputNames;
    const shapes = Object.fromEntries(accumulate.inputMetadata.map(({ name, shape }) => [name, shape]));
    this.sums = {};
    for (const name of this.names) {
      const shape = shapes[`past.${name}`].map((length) => (typeof length === "number" ? length : 1));
      const zeros = new Float32Array(shape.reduce((product, length) => product * length, 1));
      this.sums[name] = new models.ort.Tensor("float32", zeros, shape);
    }
    // The second sum holds the total assignment of frames to each cluster.
    this.massName = `${models.settings.stream}_second_sum`;
  }

  /** Adds the features of pictures and returns, for each picture, the scores so far and its assignment to clusters. */
  async add(features) {
    const { sessions, settings } = this.models;
    const steps = [];
    for (const picture of features) {
      const inputs = this.models.inputs([picture]);
      for (const name of this.names) inputs[`past.${name}`] = this.sums[name];
      const before = this.sums[this.massName].data;
      this.sums = await sessions.accumulate.run(inputs);
      const { scores, descriptor } = await sessions.describe.run(this.sums);
      const assignments = this.sums[this.massName].data.map((mass, index) => (mass - before[index]) / settings.positions);
      steps.push({ scores: scores.data, descriptor: descriptor?.data, assignments });
    }
    return steps;
  }
}

/** Scores from all features so far, for poolings without sums over frames. */
class AllFeatures {
  constructor(models) {
    this.models = models;
    this.features = [];
  }

  /** Adds the features of pictures. The scores are those after the last of them; there are no assignments. */
  async add(features) {
    this.features.push(...features);
    const step = await this.models.classify(this.features);
    return features.map(() => ({ ...step, assignments: null }));
  }
}

/**
 * The clips whose descriptors have the largest cosine similarity to a descriptor, as `[[name, similarity], ...]`.
 *
 * @param {{names: string[], values: Float32Array}} index Normalized descriptors, one after the other.
 */
export function nearestClips({ names, values }, descriptor, count) {
  const norm = Math.sqrt(descriptor.reduce((sum, value) => sum + value * value, 0)) || 1;
  const similarities = names.map((name, row) => {
    const start = row * descriptor.length;
    return [name, descriptor.reduce((sum, value, index) => sum + value * values[start + index], 0) / norm];
  });
  return similarities.sort(([, one], [, other]) => other - one).slice(0, count);
}
