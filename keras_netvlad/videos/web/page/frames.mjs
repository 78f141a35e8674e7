/*
Samples the frames of a <video> by time: the frame on screen at each multiple of 1 / fps, as `sample` of video_decoding.py.
*/

import { squareFromRgba, squareFromYuv } from "./pixels.mjs";

// A seek to a multiple shows the frame that begins there. The seconds that are added are fewer than those between two
// frames, and more than the microsecond to which browsers round times.
const JUST_AFTER = 1e-4;
const SEEK_LIMIT = 10000; // milliseconds
// Milliseconds after a seek in which its frame may still take the place of the one before, and between two looks.
const SWITCH_LIMIT = 400;
const SWITCH_STEP = 5;
// H.264 and H.265, whose files are MP4, have their color samples on the left edge of two pixels, not between them.
const LEFT = -0.25;

const unreadable = (problem) => new Error(`Choose a complete video that this browser plays. Received: ${problem}.`);

/** Number of multiples of 1 / fps from the first frame to the end of a video, at most `maxSeconds`. */
export function sampleCount(seconds, fps, maxSeconds) {
  const count = Math.max(1, Math.ceil(seconds * fps - 1e-4));
  return maxSeconds === null ? count : Math.min(count, Math.ceil(maxSeconds * fps - 1e-9));
}

/** Loads a file into a video element. */
export async function openVideo(video, file) {
  if (!file.size) throw unreadable(`an empty file, ${file.name}`);
  const head = String.fromCharCode(...new Uint8Array(await file.slice(4, 8).arrayBuffer()));
  video.chromaShift = head === "ftyp" ? LEFT : 0;
  video.src = URL.createObjectURL(file);
  await event(video, "loadeddata", `a file that this browser cannot play, ${file.name}`);
  if (!video.videoWidth) throw unreadable(`a file without pictures, ${file.name}`);
  if (!Number.isFinite(video.duration)) {
    // Recordings of browsers do not state their duration; a seek to their end finds it.
    await seek(video, 1e7);
  }
}

/**
 * Yields `{picture, count}`: a picture for the encoder, and the number of pictures of the video.
 *
 * @param {HTMLVideoElement} video A video that was opened.
 * @param {object} settings Content of predictor.json.
 * @param {AbortSignal} signal Ends the sampling.
 */
export async function* sampledPictures(video, settings, signal) {
  const { fps, size, max_seconds: maxSeconds } = settings;
  const { start, end } = await span(video);
  const count = sampleCount(end - start, fps, maxSeconds);
  const reader = new PictureReader(size);
  for (let number = 0; number < count && !signal.aborted; number++) {
    await seek(video, Math.min(start + number / fps + JUST_AFTER, video.duration));
    yield { picture: await reader.read(video), count };
  }
}

/** Yields pictures of a camera, 1 / fps apart, until the signal ends it. Pictures that come too late are left out. */
export async function* cameraPictures(video, settings, signal) {
  const reader = new PictureReader(settings.size);
  for (let due = performance.now(); !signal.aborted; ) {
    yield { picture: await reader.read(video), count: null };
    due = Math.max(due + 1000 / settings.fps, performance.now());
    await new Promise((resolve) => setTimeout(resolve, due - performance.now()));
  }
}

/** The time of the first frame and the end of the last one. Sound may begin earlier and last longer. */
async function span(video) {
  const end = video.duration;
  await seek(video, end);
  const last = shownTime(video);
  let before = null;
  if (last > 0) {
    await seek(video, Math.max(0, last - 1e-3));
    before = shownTime(video);
  }
  await seek(video, 0);
  const start = shownTime(video) ?? 0;
  return { start, end: before === null ? end : Math.min(end, 2 * last - before + 1e-3) };
}

/** The frame that is shown, to be closed after use; null if there is none yet, or if the browser gives no frames. */
function shownFrame(video) {
  if (!("VideoFrame" in globalThis)) return null;
  try {
    return new VideoFrame(video);
  } catch {
    return null;
  }
}

/** The time stamp of the frame that is shown, or null. */
function shownTime(video) {
  const frame = shownFrame(video);
  frame?.close();
  return frame && frame.timestamp / 1e6;
}

/** Seeks, and waits until the video shows the frame. Browsers may report the end of a seek before they do. */
async function seek(video, seconds) {
  const before = shownTime(video);
  let presented = null;
  const request = video.requestVideoFrameCallback?.((_, { mediaTime }) => (presented = mediaTime));
  const ended = event(video, "seeked", `a video that cannot be decoded at second ${seconds.toFixed(1)}`);
  video.currentTime = seconds;
  await ended;
  const isPast = (time) => time !== null && time <= seconds + JUST_AFTER;
  const limit = performance.now() + SWITCH_LIMIT;
  // A frame that stays on screen is presented again; in a hidden page, nothing is presented.
  while (performance.now() < limit) {
    const shown = shownTime(video);
    if (isPast(shown) && (shown !== before || shown === presented)) break;
    if (shown === null && (isPast(presented) || request === undefined)) break;
    await new Promise((resolve) => setTimeout(resolve, SWITCH_STEP));
  }
  video.cancelVideoFrameCallback?.(request);
}

function event(video, name, problem) {
  return new Promise((resolve, reject) => {
    const end = (action) => (value) => {
      clearTimeout(timer);
      video.removeEventListener(name, done);
      video.removeEventListener("error", fail);
      action(value);
    };
    const done = end(resolve);
    const fail = end(() => reject(unreadable(problem)));
    const timer = setTimeout(fail, SEEK_LIMIT);
    video.addEventListener(name, done);
    video.addEventListener("error", fail);
  });
}

/** Reads the frame that a video element shows as a square picture of RGB bytes. */
export class PictureReader {
  constructor(size) {
    this.size = size;
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  async read(video) {
    return (await this.readPlanes(video)) ?? this.readCanvas(video);
  }

  /** Reads the planes that the decoder wrote, which keeps the colors exact; null if the browser does not give them. */
  async readPlanes(video) {
    const frame = shownFrame(video);
    if (frame === null) return null;
    try {
      const { format, visibleRect, colorSpace } = frame;
      if (!["I420", "NV12"].includes(format) || visibleRect === null || frame.rotation || frame.flip) return null;
      // Older browsers do not tell the rotation of a frame. Pixels that are not square change the width, not this.
      if ((visibleRect.width - visibleRect.height) * (video.videoWidth - video.videoHeight) < 0) return null;
      const data = new Uint8Array(frame.allocationSize());
      const layouts = await frame.copyTo(data);
      const { width, height } = visibleRect;
      const plane = (index, isChroma, pixelStride = 1, first = 0) => ({
        data,
        offset: layouts[index].offset + first,
        stride: layouts[index].stride,
        pixelStride,
        width: isChroma ? Math.ceil(width / 2) : width,
        height: isChroma ? Math.ceil(height / 2) : height,
        shift: isChroma ? (video.chromaShift ?? 0) : 0,
      });
      const chroma = format === "I420" ? [plane(1, true), plane(2, true)] : [plane(1, true, 2), plane(1, true, 2, 1)];
      return squareFromYuv([plane(0, false), ...chroma], this.size, colorSpace.matrix, colorSpace.fullRange === true);
    } finally {
      frame.close();
    }
  }

  readCanvas(video) {
    const { videoWidth: width, videoHeight: height } = video;
    Object.assign(this.canvas, { width, height });
    this.context.drawImage(video, 0, 0, width, height);
    return squareFromRgba(this.context.getImageData(0, 0, width, height).data, width, height, this.size);
  }
}
