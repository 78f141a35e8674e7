/*
Turns a frame of a video into the picture that the encoder takes: scaled, cropped to a square, RGB bytes.

It follows `to_array` of video_decoding.py, which scales with FFmpeg: by averaging over areas if frames shrink, and with
cubic splines if they grow. The color planes of a frame are scaled first and converted to RGB afterwards, as FFmpeg does.
*/

// FFmpeg's weights have 12 bits.
const LEAST_WEIGHT = 2 ** -13;

/** Width and height to which a frame is scaled before the square of `size` pixels is cut out of its middle. */
export function scaledSize(width, height, size) {
  const scale = Math.max(size / height, size / width);
  return [width, height].map((length) => Math.max(size, roundHalfEven(length * scale)));
}

/** Rounds halves to even numbers, as Python does. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/**
 * The weights with which pixels of a line are added up to pixels of a shorter or longer line.
 *
 * @param {number} source Pixels of the line.
 * @param {number} target Pixels of the scaled line.
 * @param {"area" | "cubic"} method "area" is linear interpolation where a line grows, as in FFmpeg.
 * @param {number} first First pixel of the scaled line that is wanted.
 * @param {number} count Number of wanted pixels.
 * @param {number} shift Pixels of the line by which its samples lie further right or down than the middles of pixels.
 * @returns {{taps: number, places: Int32Array, weights: Float64Array}} `taps` places and weights for each wanted pixel.
 */
export function lineWeights(source, target, method, first, count, shift = 0) {
  const step = source / target;
  const stretch = Math.max(step, 1); // a kernel becomes wider if the line shrinks
  const isSame = source === target && shift === 0;
  const radius = isSame ? 0.5 : method === "cubic" ? 2 * stretch : step > 1 ? (step + 1) / 2 : 1;
  const weigh = isSame ? nearest : method === "cubic" ? cubic : step > 1 ? overlap : linear;
  const taps = 2 * Math.ceil(radius) + 1;
  const places = new Int32Array(count * taps);
  const weights = new Float64Array(count * taps);
  for (let index = 0; index < count; index++) {
    const center = (first + index + 0.5) * step - 0.5 - shift;
    const start = Math.round(center) - Math.ceil(radius);
    let sum = 0;
    for (let tap = 0; tap < taps; tap++) {
      const weight = weigh(Math.abs(start + tap - center), step, stretch);
      places[index * taps + tap] = Math.min(Math.max(start + tap, 0), source - 1); // pixels outside repeat the edge
      weights[index * taps + tap] = weight;
      sum += weight;
    }
    for (let tap = 0; tap < taps; tap++) weights[index * taps + tap] /= sum;
  }
  return { taps, places, weights };
}

const nearest = (distance) => (distance < 0.5 ? 1 : 0);
const linear = (distance) => Math.max(0, 1 - distance);

/** The part of a pixel that lies within `step / 2` of the center. */
const overlap = (distance, step) => Math.min(1, Math.max(0, (step + 1) / 2 - distance));

/** Cubic spline with the parameters of FFmpeg, B = 0 and C = 0.6. */
function cubic(distance, _, stretch) {
  const x = distance / stretch;
  if (x < 1) return 1 - 2.4 * x * x + 1.4 * x * x * x;
  return x < 2 ? 2.4 - 4.8 * x + 3 * x * x - 0.6 * x * x * x : 0;
}

/**
 * Scales one channel and cuts a rectangle out of it.
 *
 * @param {object} plane `{data, offset, stride, pixelStride, width, height, shift}`: `offset`, `stride` and `pixelStride`
 *     place the pixels in `data`; `shift` is the horizontal one of `lineWeights`.
 * @param {{width: number, height: number}} target Size of the whole scaled plane.
 * @param {{left: number, top: number, width: number, height: number}} cut Rectangle of the scaled plane.
 * @param {"area" | "cubic"} method
 * @returns {Float32Array} Values of the rectangle, row by row.
 */
export function scaledPlane(plane, target, cut, method) {
  const across = lineWeights(plane.width, target.width, method, cut.left, cut.width, plane.shift);
  const down = lineWeights(plane.height, target.height, method, cut.top, cut.height);
  const lowest = down.places.reduce((found, place) => Math.min(found, place));
  const rows = down.places.reduce((found, place) => Math.max(found, place)) - lowest + 1;
  const narrow = new Float32Array(rows * cut.width);
  for (let row = 0; row < rows; row++) {
    const line = plane.offset + (lowest + row) * plane.stride;
    for (let column = 0; column < cut.width; column++) {
      let sum = 0;
      for (let tap = column * across.taps; tap < (column + 1) * across.taps; tap++)
        sum += across.weights[tap] * plane.data[line + across.places[tap] * plane.pixelStride];
      narrow[row * cut.width + column] = sum;
    }
  }
  const values = new Float32Array(cut.width * cut.height);
  for (let row = 0; row < cut.height; row++)
    for (let tap = row * down.taps; tap < (row + 1) * down.taps; tap++) {
      const weight = down.weights[tap];
      if (Math.abs(weight) < LEAST_WEIGHT) continue;
      const line = (down.places[tap] - lowest) * cut.width;
      for (let column = 0; column < cut.width; column++)
        values[row * cut.width + column] += weight * narrow[line + column];
    }
  return values;
}

/** The square picture of RGBA pixels, as a canvas returns them. */
export function squareFromRgba(data, width, height, size) {
  const { target, cut, method } = plan(width, height, size);
  const picture = new Uint8Array(size * size * 3);
  for (let channel = 0; channel < 3; channel++) {
    const plane = { data, offset: channel, stride: width * 4, pixelStride: 4, width, height };
    const values = scaledPlane(plane, target, cut, method);
    for (let index = 0; index < values.length; index++) picture[index * 3 + channel] = toByte(values[index]);
  }
  return picture;
}

/**
 * The square picture of a frame with a plane of brightness and two smaller ones of color.
 *
 * @param {object[]} planes Y, U and V, in the form that `scaledPlane` takes.
 * @param {number} size Height and width of the picture.
 * @param {string} matrix Color matrix, "bt709" or another, which means BT.601.
 * @param {boolean} isFullRange Whether bytes stand for 0 to 255 instead of 16 to 235.
 */
export function squareFromYuv([luma, ...chroma], size, matrix, isFullRange) {
  const { target, cut, method } = plan(luma.width, luma.height, size);
  // For even widths, FFmpeg scales the color planes to half the width, so that two pixels share a color.
  const share = target.width % 2 ? 1 : 2;
  const y = scaledPlane(luma, target, cut, method);
  const chromaTarget = { width: target.width / share, height: target.height };
  const chromaLeft = Math.floor(cut.left / share);
  const chromaWidth = Math.floor((cut.left + size - 1) / share) - chromaLeft + 1;
  const chromaCut = { ...cut, left: chromaLeft, width: chromaWidth };
  const [u, v] = chroma.map((plane) => scaledPlane(plane, chromaTarget, chromaCut, method));
  const toRgb = (share === 1 ? exactRgb : tableRgb)(MATRICES[matrix] ?? MATRICES.smpte170m, isFullRange);
  const picture = new Uint8Array(size * size * 3);
  for (let row = 0; row < size; row++)
    for (let column = 0; column < size; column++) {
      const color = row * chromaWidth + Math.floor((cut.left + column) / share) - chromaLeft;
      const place = row * size + column;
      toRgb(y[place], u[color], v[color], picture, 3 * place);
    }
  return picture;
}

// Factors of FFmpeg, times 65536: V in red, U in blue, and U and V in green.
const MATRICES = { smpte170m: [104597, 132201, 25675, 53279], bt709: [117489, 138438, 13975, 34925] };

/** Converts colors with rounded results, as FFmpeg does for odd widths. */
function exactRgb(matrix, isFullRange) {
  const [red, blue, greenU, greenV] = matrix.map((factor) => (factor / 65536) * (isFullRange ? 224 / 255 : 1));
  const [black, gain] = isFullRange ? [0, 1] : [16, 255 / 219];
  return (y, u, v, picture, place) => {
    const light = (y - black) * gain;
    picture[place] = toByte(light + red * (v - 128));
    picture[place + 1] = toByte(light - greenU * (u - 128) - greenV * (v - 128));
    picture[place + 2] = toByte(light + blue * (u - 128));
  };
}

/**
 * Converts colors as FFmpeg does for even widths, with tables for bytes (`ff_yuv2rgb_c_init_tables`). A color moves the
 * place in the table of brightness. For the range 16 to 235, the results are darker by 1.8 levels than they should be.
 */
function tableRgb(matrix, isFullRange) {
  const gain = isFullRange ? 65536 : Math.floor((65536 * 255) / 219);
  const black = (isFullRange ? 384 : 400) * 65536;
  const first = isFullRange ? 384 : 326;
  const steps = matrix.map((factor) => {
    const scaled = isFullRange ? Math.trunc((factor * 224) / 255) : factor;
    return Math.trunc((scaled * 65536 + 32768) / gain);
  });
  const byte = (place) => Math.min(Math.max(Math.floor(((first + place) * gain - black + 32768) / 65536), 0), 255);
  const moved = (step, level) => Math.floor((level * step) / 65536) - Math.floor(step / 512);
  return (luma, blueness, redness, picture, place) => {
    const [y, u, v] = [toByte(luma), toByte(blueness), toByte(redness)];
    picture[place] = byte(y + moved(steps[0], v));
    picture[place + 1] = byte(y + moved(-steps[2], u) + moved(-steps[3], v));
    picture[place + 2] = byte(y + moved(steps[1], u));
  };
}

function plan(width, height, size) {
  const [newWidth, newHeight] = scaledSize(width, height, size);
  return {
    target: { width: newWidth, height: newHeight },
    cut: {
      left: Math.floor((newWidth - size) / 2),
      top: Math.floor((newHeight - size) / 2),
      width: size,
      height: size,
    },
    method: newWidth <= width && newHeight <= height ? "area" : "cubic",
  };
}

const toByte = (value) => Math.min(Math.max(Math.round(value), 0), 255);
