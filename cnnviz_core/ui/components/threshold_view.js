const LEVELS = 255; // of the colour table's 256 rows; the last one is for missing values
const REST_MS = 300; // a threshold set by keys is told when they have rested for so long
const KEY_STEPS = 48; // arrow keys cross the picture's longer side in so many
const HEAT_ALPHA = 0.72;
const MODES = { 1: "mask", 2: "cut", 3: "heat" };
const SIGNS = ["▼", "◆", "●", "▲", "■"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const MOVES = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
const views = new WeakMap();
const choices = new Map(); // mode and true outline as the person left them, by key: they outlive a change of page

class ThresholdView {
  constructor(mount) {
    const find = (selector) => mount.querySelector(selector);
    this.root = find(".threshold-view");
    this.stage = find(".stage");
    this.pictureCanvas = find(".picture");
    this.mapCanvas = find(".map");
    this.truthCanvas = find("canvas.truth");
    this.cursorMark = find(".cursor");
    this.iou = find(".iou");
    this.covered = find(".covered b");
    this.readout = find(".readout");
    this.ticks = find(".ticks");
    this.ramp = find(".ramp");
    this.slider = find("input");
    this.ends = [...mount.querySelectorAll(".ends span")];
    this.output = find("output");
    this.marks = find(".marks");
    this.modes = [...mount.querySelectorAll("[data-mode]")];
    this.toggle = find(".toggle");
    this.live = find(".live");
    this.header = null; // what is on screen
    this.cursor = null; // shares of the picture's width and height: where the pointer or the keyboard is
    this.pending = 0; // stamp of the last threshold that was told
    this.held = false; // whether the slider is being moved
    this.timer = null;
    this.counts = { decodes: 0, paints: 0 };
    this.listen();
  }

  listen() {
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const on = (target, name, action) => target.addEventListener(name, action, { signal });
    on(this.slider, "input", (event) => this.slid(event));
    on(this.slider, "change", () => this.settle());
    // A slider that comes back to where it was tells of no change.
    on(window, "pointerup", () => setTimeout(() => this.held && this.settle()));
    on(this.slider, "keydown", (event) => this.keyOnSlider(event));
    on(this.stage, "pointermove", (event) => this.point(event));
    on(this.stage, "pointerleave", () => this.look(null));
    on(this.stage, "blur", () => this.look(null));
    on(this.stage, "keydown", (event) => this.keyOnStage(event));
    on(this.root, "keydown", (event) => this.keyPressed(event));
    this.modes.forEach((button) => on(button, "click", () => this.choose({ mode: button.dataset.mode })));
    on(this.toggle, "click", () => this.choose({ truth: !this.choice().truth }));
    this.resizes = new ResizeObserver(() => this.layOut());
    this.resizes.observe(this.stage);
    onPixelRatio(() => this.layOut(), signal);
  }

  close() {
    this.listeners.abort();
    this.resizes.disconnect();
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    this.bitmap?.close();
    this.header = this.wanted = null;
  }

  // ---- what the server says

  update({ header, bytes }, report) {
    this.report = report;
    this.wanted = header;
    header.lut = bytes;
    if (!this.header) shapeStage(this.root, header); // keeps the place while the picture is on its way
    this.load(header);
  }

  /** Picture, scores and true mask change together, or the old ones stay. */
  async load(header) {
    const before = this.header;
    const fresh = {};
    try {
      if (header.picture !== before?.picture) {
        fresh.bitmap = await decode(await parts.get(header.picture), header.type);
        this.counts.decodes += 1;
      }
      if (header.scores !== before?.scores) fresh.scores = toFloats(await parts.get(header.scores));
      if (header.truth !== before?.truth) fresh.truth = header.truth && (await parts.get(header.truth));
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    if (this.wanted !== header) {
      fresh.bitmap?.close();
      return;
    }
    if (fresh.bitmap) this.bitmap?.close();
    Object.assign(this, fresh);
    this.accept(header);
  }

  fail() {
    this.root.dataset.error = "decode";
    this.readout.textContent = "The picture could not be decoded.";
  }

  accept(header) {
    const before = this.header;
    const same = before && look(before) === look(header);
    this.header = header;
    // What is being moved, or not yet answered, is not undone by the server's answer to something earlier.
    const mine = this.held || this.timer !== null || header.answers < this.pending;
    if (!before || !mine) this.threshold = header.threshold;
    if (!same) this.prepare();
    this.showMarks();
    this.showSlider();
    this.applyChoice();
    this.layOut();
    this.paintSoon();
    Object.assign(this.root.dataset, this.counts);
    this.root.dataset.ready = [header.picture, header.scores, header.truth ?? ""].join(" ").trim();
  }

  /** Scores where they are counted, and colours. */
  prepare() {
    const { header } = this;
    const { lut, shape, cells, low, high, unit } = header;
    shapeStage(this.root, header);
    this.stage.setAttribute("aria-label", header.aria);
    this.counted = enlarge(this.scores, cells, shape);
    this.trueSum = this.truth ? this.truth.reduce((sum, part) => sum + part, 0) / 255 : 0;
    this.colours = Uint32Array.from({ length: LEVELS }, (_, i) => packed(lut.subarray(3 * i, 3 * i + 3), 255));
    const image = new ImageData(LEVELS, 1);
    new Uint32Array(image.data.buffer).set(this.colours);
    this.ramp.getContext("2d").putImageData(image, 0, 0);
    this.digits = Math.max(0, Math.min(8, 2 - Math.floor(Math.log10(high - low))));
    this.ends[0].textContent = this.format(low);
    this.ends[1].textContent = unit;
    this.ends[2].textContent = this.format(high);
    this.laidOut = "";
  }

  // ---- painting

  layOut() {
    const size = this.header && deviceSize(this.stage);
    if (!size || String(size) === this.laidOut) return;
    this.laidOut = String(size);
    const [width, height] = size;
    drawPicture(this.pictureCanvas, this.bitmap, width, height);
    for (const canvas of [this.mapCanvas, this.truthCanvas]) Object.assign(canvas, { width, height });
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.inside = new Uint8Array(width * height);
    this.shown = enlarge(this.scores, this.header.cells, [height, width]);
    this.heat = null;
    if (this.truth) this.drawTruth(width, height);
    this.paintSoon();
  }

  drawTruth(width, height) {
    const [rows, columns] = this.header.shape;
    const [columnOf, rowOf] = [nearest(columns, width), nearest(rows, height)];
    for (let y = 0, i = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1, i += 1) this.inside[i] = this.truth[rowOf[y] * columns + columnOf[x]] > 127;
    }
    paintMask(this.pixels, this.inside, width, height, [0, 0, width, height], truthLook());
    this.truthCanvas.getContext("2d").putImageData(this.image, 0, 0);
  }

  paintSoon(since = null) {
    this.since ??= since;
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = null;
    this.count();
    if (!this.image) return;
    const { width, height } = this.image;
    const { inside, shown, threshold, pixels } = this;
    for (let i = 0; i < inside.length; i += 1) inside[i] = shown[i] >= threshold ? 1 : 0;
    PAINT[this.choice().mode](this, pixels, inside, width, height);
    this.counts.paints += 1;
    this.root.dataset.paints = this.counts.paints;
    this.showReadout();
    if (this.since !== null) this.root.dataset.ms = (performance.now() - this.since).toFixed(1);
    this.since = null;
  }

  put() {
    this.mapCanvas.getContext("2d").putImageData(this.image, 0, 0);
  }

  /** The scores as colours, made when they are first asked for. */
  heatPixels() {
    const { low, high } = this.header;
    const alpha = Math.round(255 * HEAT_ALPHA);
    const colours = this.colours.map((colour) => ((colour & 0xffffff) | (alpha << 24)) >>> 0);
    this.heat ??= Uint32Array.from(this.shown, (value) => {
      const share = Math.max(0, Math.min(1, (value - low) / (high - low)));
      return colours[Math.floor((LEVELS - 1) * share + 0.5)];
    });
    return this.heat;
  }

  /** Share of the picture, and intersection over union with the true mask. */
  count() {
    const { counted, truth, threshold } = this;
    let [num, both] = [0, 0];
    for (let i = 0; i < counted.length; i += 1) {
      if (counted[i] < threshold) continue;
      num += 1;
      if (truth) both += truth[i];
    }
    both /= 255;
    const either = num + this.trueSum - both;
    const share = num / counted.length;
    this.covered.textContent = percent(share);
    this.iou.hidden = !truth;
    this.score = truth ? (either > 0 ? both / either : 1) : null;
    this.iou.querySelector("b").textContent = truth ? this.score.toFixed(3) : "";
    this.root.dataset.iou = this.score ?? "";
    this.root.dataset.covered = share;
    const iou = truth ? `, IoU ${this.score.toFixed(2)}` : "";
    this.slider.setAttribute("aria-valuetext", `${this.format(threshold)}, ${percent(share)} of the picture${iou}`);
  }

  // ---- threshold

  setThreshold(value, since = null) {
    const { low, high } = this.header;
    const plain = Number(value.toPrecision(12)); // 0.3 and not 0.30000000000000004
    this.threshold = Math.max(low, Math.min(high, plain));
    this.showSlider();
    this.paintSoon(since);
  }

  slid(event) {
    this.held = true;
    const { low, high, step } = this.header;
    const value = this.slider.valueAsNumber;
    const atEnd = value <= low || value >= high;
    this.setThreshold(atEnd ? value : low + Math.round((value - low) / step) * step, event.timeStamp);
  }

  /** The threshold is told once it is chosen. */
  settle() {
    if (!this.header) return;
    this.held = false;
    clearTimeout(this.timer);
    this.timer = null;
    this.pending = this.report([this.threshold], "threshold");
    this.root.dataset.told = this.pending;
  }

  keyOnSlider(event) {
    if (!this.header || event.ctrlKey || event.metaKey || event.altKey) return;
    const { low, high, step } = this.header;
    if (event.key in MOVES) this.setThreshold(this.threshold + MOVES[event.key] * step, event.timeStamp);
    else if (event.key === "Home") this.setThreshold(low, event.timeStamp);
    else if (event.key === "End") this.setThreshold(high, event.timeStamp);
    else return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(), REST_MS);
    event.preventDefault();
    event.stopPropagation();
  }

  showSlider() {
    const { low, high } = this.header;
    const share = (this.threshold - low) / (high - low);
    Object.assign(this.slider, { min: low, max: high });
    if (this.slider.valueAsNumber !== this.threshold) this.slider.value = this.threshold;
    this.slider.style.setProperty("--at", `calc(7px + ${share} * (100% - 14px))`);
    this.output.textContent = this.format(this.threshold);
    this.root.dataset.threshold = this.threshold;
    [...this.marks.children].forEach((button) => {
      const value = Math.max(low, Math.min(high, Number(button.dataset.value)));
      button.setAttribute("aria-pressed", Math.abs(value - this.threshold) <= 1e-9 * (high - low));
    });
  }

  /** Ticks above the slider, and a button for each with its name. */
  showMarks() {
    const { marks, low, high } = this.header;
    const told = JSON.stringify([marks, low, high]);
    if (told === this.markedAs) return;
    this.markedAs = told;
    this.marks.hidden = !marks.length;
    this.ticks.replaceChildren(
      ...marks.map(([name, value], at) => {
        const tick = document.createElement("span");
        tick.className = "tick";
        tick.textContent = SIGNS[at % SIGNS.length];
        tick.style.left = `${100 * Math.max(0, Math.min(1, (value - low) / (high - low)))}%`;
        tick.title = name;
        return tick;
      }),
    );
    this.marks.replaceChildren(...marks.map(([name, value], at) => this.markButton(name, value, at)));
  }

  markButton(name, value, at) {
    const button = document.createElement("button");
    const [sign, number] = [document.createElement("i"), document.createElement("b")];
    button.type = "button";
    button.className = "mark";
    button.dataset.value = value;
    button.title = `Sets the threshold to ${this.format(value)}`;
    sign.textContent = SIGNS[at % SIGNS.length];
    sign.setAttribute("aria-hidden", "true");
    number.textContent = ` ${this.format(value)}`;
    button.append(sign, name, number);
    button.addEventListener("click", (event) => {
      this.setThreshold(value, event.timeStamp);
      this.settle();
    });
    return button;
  }

  // ---- what the person chose to see

  choice() {
    return { mode: "mask", truth: true, ...choices.get(this.header.key) };
  }

  choose(change) {
    if (!this.header) return;
    choices.set(this.header.key, { ...choices.get(this.header.key), ...change });
    this.applyChoice();
    this.paintSoon();
  }

  applyChoice() {
    const { mode, truth } = this.choice();
    this.modes.forEach((button) => button.setAttribute("aria-pressed", button.dataset.mode === mode));
    Object.values(MODES).forEach((each) => this.root.classList.toggle(each, each === mode));
    this.toggle.hidden = !this.truth;
    this.toggle.setAttribute("aria-pressed", truth);
    this.truthCanvas.hidden = !this.truth || !truth;
    this.root.dataset.mode = mode;
  }

  // ---- reading scores

  point(event) {
    const box = this.stage.getBoundingClientRect();
    this.byKeys = false;
    this.look([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  }

  look(cursor) {
    this.cursor = cursor;
    this.cursorMark.hidden = !cursor || !this.byKeys;
    if (cursor) {
      this.cursorMark.style.left = `${100 * cursor[0]}%`;
      this.cursorMark.style.top = `${100 * cursor[1]}%`;
    }
    this.showReadout();
  }

  /** The score under the pointer. */
  showReadout() {
    if (!this.header || !this.image) return;
    this.readout.textContent = this.cursor ? this.words() : "Point to read a score.";
  }

  words() {
    const { width, height } = this.image;
    const pixel = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    const [x, y] = [pixel(this.cursor[0], width), pixel(this.cursor[1], height)];
    const value = this.shown[y * width + x];
    this.root.dataset.value = value;
    return `${this.header.unit} ${this.format(value)}, ${value >= this.threshold ? "in the mask" : "outside"}`;
  }

  format(value) {
    return trueMinus(value.toFixed(this.digits).replace(/^-(0(\.0+)?)$/, "$1"));
  }

  keyOnStage(event) {
    if (!this.header || event.ctrlKey || event.metaKey || event.altKey || !(event.key in ARROWS)) return;
    const [right, down] = this.cursor ? ARROWS[event.key] : [0, 0]; // the first key shows where one is
    const [x, y] = this.cursor ?? [0.5, 0.5];
    const [width, height] = this.header.size;
    const step = Math.max(width, height) / KEY_STEPS;
    const to = (at, by, size) => Math.max(0, Math.min(1, at + (by * step) / size));
    this.byKeys = true;
    this.look([to(x, right, width), to(y, down, height)]);
    this.live.textContent = this.readout.textContent;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Keys that work wherever one is in the component. */
  keyPressed(event) {
    if (!this.header || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in MODES) this.choose({ mode: MODES[event.key] });
    else if (event.key.toLowerCase() === "t" && this.truth) this.choose({ truth: !this.choice().truth });
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }
}

/** How each mode paints the pixels that reach the threshold. */
const PAINT = {
  mask(view, pixels, inside, width, height) {
    paintMask(pixels, inside, width, height, [0, 0, width, height], MASK_LOOK);
    view.put();
  },
  cut(view, pixels, inside) {
    for (let i = 0; i < pixels.length; i += 1) pixels[i] = inside[i] ? 0xffffffff : 0;
    view.put();
    const context = view.mapCanvas.getContext("2d");
    context.globalCompositeOperation = "source-in";
    context.drawImage(view.pictureCanvas, 0, 0);
    context.globalCompositeOperation = "source-over";
  },
  heat(view, pixels, inside, width, height) {
    pixels.set(view.heatPixels());
    paintMask(pixels, inside, width, height, [0, 0, width, height], { ...MASK_LOOK, keep: true });
    view.put();
  },
};

/** Equal for two headers between which nothing but threshold and marks has changed. */
function look({ picture, scores, truth, low, high, unit, maxPx, aria, lut }) {
  return [picture, scores, truth, low, high, unit, maxPx, aria, lut].join();
}

function packed([red, green, blue], alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function toFloats(bytes) {
  return new Float32Array(bytes.slice().buffer); // a copy starts at a multiple of four
}

/** Bilinear interpolation, cell centres at half steps (align_corners=False); flat beyond the outer centres. */
function enlarge(values, [rows, columns], [height, width]) {
  const across = shares(columns, width);
  const down = shares(rows, height);
  const wide = new Float64Array(rows * width);
  for (let row = 0; row < rows; row += 1) {
    for (let x = 0; x < width; x += 1) {
      const [at, share] = [row * columns + across.before[x], across.share[x]];
      wide[row * width + x] = values[at] + (share ? (values[at + 1] - values[at]) * share : 0);
    }
  }
  const out = new Float32Array(height * width);
  for (let y = 0; y < height; y += 1) {
    const [at, share] = [down.before[y] * width, down.share[y]];
    for (let x = 0; x < width; x += 1) {
      const upper = wide[at + x];
      out[y * width + x] = share ? upper + (wide[at + width + x] - upper) * share : upper;
    }
  }
  return out;
}

/** For each of `many` places: the cell before it, and the share of the one after that. */
function shares(few, many) {
  const before = new Int32Array(many);
  const share = new Float64Array(many);
  for (let place = 0; place < many; place += 1) {
    const exact = Math.max(0, Math.min(few - 1, ((place + 0.5) * few) / many - 0.5));
    before[place] = Math.floor(exact);
    share[place] = exact - before[place];
  }
  return { before, share };
}

export default (component) => mounted(views, component, (mount) => new ThresholdView(mount));
