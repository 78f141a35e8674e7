/*
Draws the answers: the best classes, the scores over time, the assignment to clusters, and a table of them all.
*/

const CURVES = 5;
const BEST = 5;
// Pixels of the canvas of the scores that its labels take.
const MARGIN = { left: 40, right: 12, top: 8, bottom: 26 };

const byId = (id) => document.getElementById(id);

/** Shows the answers of one video. */
export class View {
  constructor(labels, fps) {
    Object.assign(this, { labels, fps, steps: [], announced: null });
    for (const id of ["best", "rows", "legend", "clips"]) byId(id).replaceChildren();
    for (const id of ["curves", "clusters", "numbers", "nearest", "download"]) byId(id).hidden = true;
  }

  /** Adds `{scores, assignments}` of further frames. */
  add(steps) {
    for (const step of steps) {
      this.steps.push(step);
      byId("rows").append(this.row(step, this.steps.length));
    }
    const { scores } = this.steps.at(-1);
    const order = ranked(scores);
    this.announce(order[0], scores, false);
    byId("best").replaceChildren(...order.slice(0, BEST).map((label) => item(this.labels[label], scores[label], true)));
    byId("curves").hidden = byId("numbers").hidden = false;
    byId("clusters").hidden = !steps[0].assignments;
    this.draw();
  }

  /** Says that the video has ended. */
  finish() {
    if (!this.steps.length) return;
    const { scores } = this.steps.at(-1);
    this.announce(ranked(scores)[0], scores, true);
    const content = { labels: this.labels, answers: this.steps.map((step, index) => this.answer(step, index + 1)) };
    const link = byId("download");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
    link.hidden = false;
  }

  answer({ scores, assignments }, count) {
    return { second: count / this.fps, scores: [...scores], assignments: assignments && [...assignments] };
  }

  /** Shows `[[name, similarity], ...]`. */
  showNearest(clips) {
    byId("nearest").hidden = false;
    byId("clips").replaceChildren(...clips.map(([name, similarity]) => item(name, similarity, false)));
  }

  /** A screen reader reads the answer when its class changes, and at the end. */
  announce(label, scores, isEnd) {
    if (label === this.announced && !isEnd) return;
    this.announced = label;
    const seconds = (this.steps.length / this.fps).toFixed(1);
    const when = isEnd ? `the whole video, ${seconds} s` : `so far, from ${seconds} s`;
    byId("answer").textContent = `${this.labels[label]} (${scores[label].toFixed(3)}; ${when})`;
  }

  row({ scores, assignments }, count) {
    const [best] = ranked(scores);
    const strongest = assignments && ranked(assignments)[0];
    const cells = [(count / this.fps).toFixed(2), this.labels[best], scores[best].toFixed(3)];
    cells.push(...(assignments ? [strongest + 1, assignments[strongest].toFixed(3)] : ["–", "–"]));
    const row = document.createElement("tr");
    for (const text of cells) row.append(Object.assign(document.createElement("td"), { textContent: text }));
    return row;
  }

  /** Draws the canvases again, for instance after the window was resized. */
  draw() {
    if (!this.steps.length) return;
    const shown = ranked(this.steps.at(-1).scores).slice(0, CURVES);
    byId("legend").replaceChildren(
      ...shown.map((label, index) => {
        const mark = document.createElement("i");
        mark.style.background = `var(--color-${index})`;
        const entry = document.createElement("li");
        entry.append(mark, this.labels[label]);
        return entry;
      }),
    );
    this.drawScores(shown);
    if (this.steps[0].assignments) this.drawAssignments();
  }

  drawScores(shown) {
    const { context, width, height, color } = prepared(byId("scores"));
    const { left, right, top, bottom } = MARGIN;
    const x = (count) => left + ((width - left - right) * count) / this.steps.length;
    const y = (score) => height - bottom - (height - top - bottom) * score;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const level of [0, 0.5, 1]) {
      context.strokeStyle = color("--line");
      line(context, [[left, y(level)], [width - right, y(level)]]);
      context.fillStyle = color("--soft");
      context.fillText(level.toFixed(1), left - 8, y(level));
    }
    this.drawTimes(context, x, height);
    context.lineWidth = 2;
    for (const [index, label] of shown.entries()) {
      context.strokeStyle = context.fillStyle = color(`--color-${index}`);
      const points = this.steps.map(({ scores }, number) => [x(number + 1), y(scores[label])]);
      line(context, points);
      if (points.length <= 60) for (const point of points) dot(context, point);
    }
  }

  drawAssignments() {
    const canvas = byId("heat");
    const clusters = this.steps[0].assignments.length;
    const cell = Math.max(4, Math.min(22, 320 / clusters));
    canvas.style.height = `${clusters * cell + MARGIN.bottom + MARGIN.top}px`;
    const { context, width, height, color } = prepared(canvas);
    const { left, right, top } = MARGIN;
    const x = (count) => left + ((width - left - right) * count) / this.steps.length;
    const most = this.steps.reduce((found, { assignments }) => Math.max(found, ...assignments), 1);
    context.fillStyle = color("--soft");
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.ceil(16 / cell);
    for (let cluster = 0; cluster < clusters; cluster += every)
      context.fillText(String(cluster + 1), left - 8, top + (cluster + 0.5) * cell);
    context.fillStyle = color("--field");
    context.fillRect(left, top, width - left - right, clusters * cell);
    context.fillStyle = color("--accent");
    for (const [number, { assignments }] of this.steps.entries())
      for (const [cluster, share] of assignments.entries()) {
        context.globalAlpha = Math.min(Math.max(share / most, 0), 1);
        const gap = x(number + 1) - x(number) > 6 ? 1 : 0;
        context.fillRect(x(number), top + cluster * cell, x(number + 1) - x(number) - gap, cell - (cell > 6 ? 1 : 0));
      }
    context.globalAlpha = 1;
    this.drawTimes(context, x, height);
  }

  drawTimes(context, x, height) {
    const seconds = this.steps.length / this.fps;
    const unit = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600].find((step) => seconds / step <= 8) ?? 7200;
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--soft");
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    for (let second = 0; second < seconds - unit / 2; second += unit) context.fillText(`${second} s`, x(second * this.fps), height - 6);
    context.textAlign = "right";
    context.fillText(`${seconds.toFixed(seconds % 1 ? 1 : 0)} s`, x(this.steps.length), height - 6);
  }
}

/** Indices of the values, the largest first. */
export function ranked(values) {
  return Array.from(values.keys()).sort((one, other) => values[other] - values[one]);
}

function item(name, value, hasBar) {
  const entry = document.createElement("li");
  for (const text of [name, value.toFixed(3)])
    entry.append(Object.assign(document.createElement("span"), { textContent: text }));
  if (hasBar) {
    const bar = Object.assign(document.createElement("div"), { className: "bar" });
    const part = document.createElement("i");
    part.style.width = `${100 * Math.min(value, 1)}%`;
    bar.append(part);
    entry.append(bar);
  }
  return entry;
}

/** Clears a canvas and fits its pixels to those of the screen. */
function prepared(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.font = "12px system-ui, sans-serif";
  const style = getComputedStyle(document.documentElement);
  return { context, width, height, color: (name) => style.getPropertyValue(name) };
}

function line(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}

function dot(context, [x, y]) {
  context.beginPath();
  context.arc(x, y, 2.5, 0, 2 * Math.PI);
  context.fill();
}
