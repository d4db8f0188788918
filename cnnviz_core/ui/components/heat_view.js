const FOLLOW_MS = 150; // a dragged cell is told at most this often
const LEVELS = 255; // of the colour table's 256 rows; the last one is for missing values
const views = new WeakMap();
const choices = new Map(); // opacity and map on/off as the user left them, by key: they outlive a change of page

class HeatView {
  constructor(mount) {
    const find = (selector) => mount.querySelector(selector);
    this.root = find(".heat-view");
    this.stage = find(".stage");
    this.pictureCanvas = find(".picture");
    this.window = find(".window"); // what the map covers: cells and boxes are measured in it
    this.mapCanvas = find(".map");
    this.pinnedRing = find(".pinned");
    this.pointedRing = find(".pointed");
    this.boxes = find(".boxes");
    this.drawnBox = find(".drawn");
    this.readout = find(".readout");
    this.scale = find(".scale");
    this.bar = find(".bar canvas");
    this.mark = find(".mark");
    this.ticks = mount.querySelectorAll(".ticks span");
    this.controls = find(".controls");
    this.toggle = find(".toggle");
    this.slider = find("input");
    this.percent = find("output");
    this.live = find(".live");
    this.header = null; // what is on screen
    this.pinned = null;
    this.pointed = null;
    this.beside = false; // whether the pointer is on the picture where there is no map
    this.pending = 0; // stamp of the last click
    this.drag = null; // where the pointer went down, or the corner of a box drawn by keys
    this.reported = 0; // when a drag last told the server
    this.counts = { decodes: 0, paints: 0 };
    this.listen();
  }

  listen() {
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const on = (target, name, action) => target.addEventListener(name, action, { signal });
    on(this.stage, "pointerdown", (event) => this.pressed(event));
    on(this.stage, "pointermove", (event) => this.moved(event));
    on(this.stage, "pointerup", (event) => this.released(event));
    on(this.stage, "pointercancel", () => this.endDrag());
    on(this.stage, "pointerleave", (event) => event.pointerType !== "touch" && this.point(null));
    on(this.stage, "click", (event) => this.clicked(event));
    on(this.stage, "keydown", (event) => this.keyPressed(event));
    on(this.stage, "blur", () => this.point(null));
    on(this.slider, "input", () => this.choose({ opacity: this.slider.valueAsNumber / 100, on: true }));
    on(this.toggle, "click", () => this.choose({ on: !this.choice().on }));
    this.resizes = new ResizeObserver(() => this.layOut());
    this.resizes.observe(this.stage);
    onPixelRatio(() => this.layOut(), signal);
  }

  close() {
    this.listeners.abort();
    this.resizes.disconnect();
    this.header = this.wanted = null;
  }

  // ---- what the server says

  update({ header, bytes }, report) {
    this.report = report;
    this.wanted = header;
    header.lut = bytes;
    if (!this.header) this.shapeStage(header); // keeps the place while the picture is on its way
    const current = header.picture === this.header?.picture && header.values === this.header?.values;
    if (current) this.accept(header);
    else this.load(header);
  }

  /** Picture and map change together, or the old ones stay. */
  async load(header) {
    let bitmap = null;
    let values = this.values;
    try {
      if (header.picture !== this.header?.picture) {
        bitmap = await decode(await parts.get(header.picture), header.type);
        this.counts.decodes += 1;
      }
      if (header.values !== this.header?.values) values = header.values && toFloats(await parts.get(header.values));
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    if (this.wanted !== header) {
      bitmap?.close();
      return;
    }
    if (bitmap) this.drawPicture(bitmap);
    this.values = values;
    this.accept(header);
  }

  fail() {
    this.root.dataset.error = "decode";
    this.readout.textContent = "The picture could not be decoded.";
  }

  accept(header) {
    const sameMap = this.header && mapLook(header) === mapLook(this.header);
    this.header = header;
    this.shapeStage(header);
    this.stage.setAttribute("aria-label", header.aria);
    this.stage.classList.toggle("clickable", header.clickable);
    this.stage.classList.toggle("plain", !this.values);
    this.stage.classList.toggle("drags", header.drawable || header.follow);
    // A click that the server has not yet answered is not undone by its answer to an earlier one.
    if (header.answers >= this.pending) this.pinned = header.cell;
    if (this.pinned && !this.has(this.pinned)) this.pinned = null;
    if (this.pointed && !this.has(this.pointed)) this.pointed = null;
    if (!sameMap) this.colourMap();
    this.layOut();
    this.drawScale();
    this.applyChoice();
    this.showCells();
    this.showBoxes();
    Object.assign(this.root.dataset, this.counts);
    this.root.dataset.ready = `${header.picture} ${header.values ?? ""}`.trim();
  }

  drawPicture(bitmap) {
    this.pictureCanvas.width = bitmap.width;
    this.pictureCanvas.height = bitmap.height;
    this.pictureCanvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  }

  shapeStage({ size: [width, height], maxPx, window }) {
    const shown = (maxPx * width) / Math.max(width, height);
    this.root.style.setProperty("--width", `${shown}px`);
    this.root.style.setProperty("--aspect", `${width} / ${height}`);
    // A picture of few pixels is shown as such, not blurred into something the network never saw.
    this.pictureCanvas.classList.toggle("pixelated", shown >= 4 * width);
    place(this.window, window, 1);
    const isWhole = window.join() === "0,0,1,1";
    this.stage.classList.toggle("beside", !isWhole);
    if (isWhole) this.beside = false;
  }

  // ---- the map

  /** Colour table as one number per colour, and what the values hold. */
  colourMap() {
    const { lut } = this.header;
    this.colours = Uint32Array.from({ length: LEVELS }, (_, i) => {
      const [red, green, blue] = lut.subarray(3 * i, 3 * i + 3);
      return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    this.least = Infinity;
    this.most = -Infinity;
    for (const value of this.values ?? []) {
      if (!Number.isFinite(value)) continue;
      if (value < this.least) this.least = value;
      if (value > this.most) this.most = value;
    }
    this.coloured = this.least <= this.most; // false where no value is a number
    this.painted = null;
  }

  layOut() {
    const { header } = this;
    if (!header || this.stage.clientWidth === 0) return;
    this.mapCanvas.hidden = !this.coloured;
    if (this.coloured) this.paint();
    this.showCells();
  }

  /** Paints cells as single pixels, or interpolated values at the screen's resolution. */
  paint() {
    const { smooth, shape } = this.header;
    const [rows, columns] = shape;
    const box = this.window.getBoundingClientRect();
    const width = smooth ? Math.max(columns, Math.round(box.width * devicePixelRatio)) : columns;
    const height = smooth ? Math.max(rows, Math.round(box.height * devicePixelRatio)) : rows;
    if (this.painted === `${width} ${height}`) return;
    this.painted = `${width} ${height}`;
    this.mapCanvas.width = width;
    this.mapCanvas.height = height;
    this.mapCanvas.classList.toggle("pixelated", !smooth);
    const values = smooth ? enlarge(this.values, rows, columns, height, width) : this.values;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i += 1) {
      if (Number.isFinite(values[i])) pixels[i] = this.colours[this.level(values[i])];
    }
    this.mapCanvas.getContext("2d").putImageData(image, 0, 0);
    this.counts.paints += 1;
  }

  level(value) {
    return Math.floor((LEVELS - 1) * this.share(value) + 0.5);
  }

  /** Where a value lies between low (0) and high (1), clamped. */
  share(value) {
    const { low, high } = this.header;
    if (value <= low) return 0;
    return value >= high ? 1 : (value - low) / (high - low);
  }

  drawScale() {
    this.scale.hidden = this.controls.hidden = !this.coloured;
    this.readout.hidden = !this.values;
    if (!this.coloured) return;
    const { low, high, unit } = this.header;
    const image = new ImageData(LEVELS, 1);
    new Uint32Array(image.data.buffer).set(this.colours);
    this.bar.getContext("2d").putImageData(image, 0, 0);
    const digits = digitsFor(low, high);
    const middle = Math.abs(low + high) < 1e-6 * (high - low) ? 0 : (low + high) / 2;
    const under = this.least < low ? "≤ " : "";
    const over = this.most > high ? "≥ " : "";
    this.ticks[0].textContent = under + format(low, digits);
    this.ticks[1].textContent = low < high ? format(middle, digits) : "";
    this.ticks[2].textContent = `${low < high || over ? over + format(high, digits) : ""} ${unit}`.trim();
  }

  // ---- what the user chose to see

  choice() {
    return { opacity: this.header?.opacity ?? 1, on: true, ...choices.get(this.header?.key) };
  }

  choose(change) {
    choices.set(this.header.key, { ...choices.get(this.header.key), ...change });
    this.applyChoice();
  }

  applyChoice() {
    const { opacity, on } = this.choice();
    const percent = Math.round(100 * opacity);
    this.mapCanvas.style.opacity = on ? opacity : 0;
    this.slider.value = percent;
    this.slider.style.setProperty("--filled", `${percent}%`);
    this.percent.textContent = `${percent} %`;
    this.slider.setAttribute("aria-valuetext", this.percent.textContent);
    this.toggle.setAttribute("aria-pressed", on);
    this.root.dataset.opacity = on ? percent : 0;
  }

  // ---- pointer and keyboard

  has([row, column]) {
    return row < this.header.shape[0] && column < this.header.shape[1];
  }

  /** Place of the pointer, at most at the picture's edge, as shares of the map's height and width; beyond 0..1 beside it. */
  shareAt(event) {
    const seen = this.stage.getBoundingClientRect();
    const box = this.window.getBoundingClientRect();
    const y = Math.max(seen.top, Math.min(seen.bottom, event.clientY));
    const x = Math.max(seen.left, Math.min(seen.right, event.clientX));
    return [(y - box.top) / box.height, (x - box.left) / box.width];
  }

  /** The cell under the pointer, or nearest to one that drags; null beside the map. */
  cellAt(event) {
    if (!this.header || !this.values) return null;
    const shares = this.shareAt(event);
    if (!this.drag && shares.some((share) => share < 0 || share > 1)) return null;
    return shares.map((share, axis) => {
      const size = this.header.shape[axis];
      return Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    });
  }

  point(cell, beside = false) {
    if (String(cell) === String(this.pointed) && beside === this.beside) return;
    this.pointed = cell;
    this.beside = beside;
    if (this.header) this.showCells();
  }

  pointAt(event) {
    const cell = this.cellAt(event);
    this.point(cell, !cell && Boolean(this.values));
    return cell;
  }

  /** Place of the pointer in thousandths of the map's height and width, the nearest one beside it. */
  placeAt(event) {
    return this.shareAt(event).map((share) => Math.max(0, Math.min(1000, Math.round(1000 * share))));
  }

  pressed(event) {
    if (!this.header || event.button !== 0 || !(this.header.drawable || this.header.follow)) return;
    this.stage.setPointerCapture(event.pointerId);
    this.drag = { from: this.placeAt(event), x: event.clientX, y: event.clientY, moved: false };
  }

  moved(event) {
    const cell = this.pointAt(event);
    if (!this.drag || this.drag.byKeys) return;
    this.drag.moved ||= Math.hypot(event.clientX - this.drag.x, event.clientY - this.drag.y) > 4;
    if (!this.drag.moved) return;
    if (this.header.drawable) this.outline(boxBetween(this.drag.from, this.placeAt(event)));
    else if (cell && String(cell) !== String(this.pinned) && Date.now() - this.reported > FOLLOW_MS) this.follow(cell);
  }

  follow(cell) {
    this.reported = Date.now();
    this.pin(cell);
  }

  released(event) {
    const drag = this.drag;
    this.drag = null;
    this.justDragged = Boolean(drag?.moved);
    if (!drag?.moved) return;
    const cell = this.cellAt(event);
    if (this.header.drawable) this.reportBox(boxBetween(drag.from, this.placeAt(event)));
    else if (cell && String(cell) !== String(this.pinned)) this.follow(cell);
  }

  endDrag() {
    this.drag = null;
    this.showBoxes();
  }

  reportBox(box) {
    if (box[2] > box[0] && box[3] > box[1]) this.pending = this.report(box);
    else this.showBoxes();
  }

  /** The boxes that the server knows of; one that is being drawn goes when its answer is here. */
  showBoxes() {
    const { boxes, answers } = this.header;
    if (!this.drag && answers >= this.pending) this.outline(null);
    this.boxes.replaceChildren(
      ...boxes.map(([name, box]) => {
        const frame = document.createElement("div");
        frame.className = "box";
        frame.title = name;
        frame.dataset.name = name;
        place(frame, box, 1000);
        return frame;
      }),
    );
  }

  outline(box) {
    this.drawnBox.hidden = !box;
    if (box) place(this.drawnBox, box, 1000);
  }

  clicked(event) {
    if (this.justDragged) {
      this.justDragged = false;
      return;
    }
    const cell = this.pointAt(event);
    if (cell && this.header.clickable) this.pin(cell);
  }

  pin(cell) {
    this.pinned = cell;
    this.showCells();
    this.pending = this.report(cell);
  }

  keyPressed(event) {
    if (!this.header || !this.values || event.ctrlKey || event.metaKey || event.altKey) return;
    const [rows, columns] = this.header.shape;
    const at = this.pointed ?? this.pinned ?? [Math.floor(rows / 2), Math.floor(columns / 2)];
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const ends = { Home: [at[0], 0], End: [at[0], columns - 1], PageUp: [0, at[1]], PageDown: [rows - 1, at[1]] };
    if (event.shiftKey && this.header.drawable && event.key in steps) this.drawByKeys(at, steps[event.key]);
    else if (event.key === "Enter" && this.drag?.byKeys) this.finishKeys();
    else if (event.key in steps) {
      // The first key shows where one is, the next ones move.
      const [down, right] = this.pointed || this.pinned ? steps[event.key] : [0, 0];
      this.walk([Math.max(0, Math.min(rows - 1, at[0] + down)), Math.max(0, Math.min(columns - 1, at[1] + right))]);
    } else if (event.key in ends) this.walk(ends[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && this.header.clickable) this.walk(at, true);
    else if (event.key === "Escape") {
      this.point(null);
      this.endDrag();
    }
    else if (event.key.toLowerCase() === "m" && this.coloured) this.choose({ on: !this.choice().on });
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }

  /** Shift and an arrow stretch a box over whole cells; Enter hands it in. */
  drawByKeys(at, [down, right]) {
    const [rows, columns] = this.header.shape;
    this.drag ??= { byKeys: true, from: at, to: at };
    const [row, column] = this.drag.to;
    this.drag.to = [Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + right))];
    this.point(this.drag.to);
    this.outline(this.boxOfCells(this.drag.from, this.drag.to));
    this.live.textContent = `rectangle to row ${this.drag.to[0]}, column ${this.drag.to[1]}; Enter takes it`;
  }

  finishKeys() {
    const { from, to } = this.drag;
    this.drag = null;
    this.reportBox(this.boxOfCells(from, to));
  }

  boxOfCells(from, to) {
    const [rows, columns] = this.header.shape;
    const edge = (index, size) => Math.round((1000 * index) / size);
    const [top, left, bottom, right] = boxBetween(from, to);
    return [edge(top, rows), edge(left, columns), edge(bottom + 1, rows), edge(right + 1, columns)];
  }

  walk(cell, pins = false) {
    this.point(cell);
    if (pins) this.pin(cell);
    this.live.textContent = this.words(cell) + (pins ? ", pinned" : "");
  }

  showCells() {
    this.encircle(this.pinnedRing, this.pinned);
    this.encircle(this.pointedRing, this.pointed);
    this.root.dataset.selected = this.pinned?.join(",") ?? "";
    this.root.dataset.hover = this.pointed?.join(",") ?? "";
    const cell = this.pointed ?? this.pinned;
    const value = cell && this.value(cell);
    this.root.dataset.value = cell ? String(value) : "";
    this.readout.classList.toggle("idle", !cell);
    this.readout.textContent = cell ? this.words(cell) : this.invitation();
    this.mark.hidden = !cell || !this.coloured || !Number.isFinite(value);
    if (!this.mark.hidden) this.mark.style.left = `${100 * this.share(value)}%`;
  }

  encircle(ring, cell) {
    ring.hidden = !cell;
    if (!cell) return;
    const [rows, columns] = this.header.shape;
    ring.style.left = `${(100 * cell[1]) / columns}%`;
    ring.style.top = `${(100 * cell[0]) / rows}%`;
    ring.style.width = `${100 / columns}%`;
    ring.style.height = `${100 / rows}%`;
  }

  value([row, column]) {
    return this.values[row * this.header.shape[1] + column];
  }

  words(cell) {
    const value = this.value(cell);
    const place = `row ${cell[0]}, column ${cell[1]}`;
    if (!this.coloured) return place;
    return Number.isNaN(value) ? `${place}: no value` : `${place}: ${format(value, 4)} ${this.header.unit}`.trimEnd();
  }

  invitation() {
    if (this.beside) return "The network did not see this place.";
    if (this.header.drawable) return "Drag a rectangle over the picture.";
    if (this.header.follow) return "Click a place, or drag.";
    if (!this.coloured) return this.header.clickable ? "Click a place in the picture." : "";
    return this.header.clickable ? "Point to read a value, click to pin it." : "Point at the picture to read a value.";
  }
}

/** (top, left, bottom, right) of two opposite corners. */
function boxBetween([row, column], [otherRow, otherColumn]) {
  const [top, left] = [Math.min(row, otherRow), Math.min(column, otherColumn)];
  return [top, left, Math.max(row, otherRow), Math.max(column, otherColumn)];
}

/** Puts an element where a box lies in the one around it, which is so many units high and wide. */
function place(element, [top, left, bottom, right], units) {
  const percent = 100 / units;
  element.style.top = `${percent * top}%`;
  element.style.left = `${percent * left}%`;
  element.style.height = `${percent * (bottom - top)}%`;
  element.style.width = `${percent * (right - left)}%`;
}

/** Equal for two headers whose maps look the same. */
function mapLook({ values, shape, low, high, smooth, lut }) {
  return [values, shape, low, high, smooth, lut].join();
}

function toFloats(bytes) {
  return new Float32Array(bytes.slice().buffer); // a copy starts at a multiple of four
}

/** Bilinear interpolation, cell centres at half steps (align_corners=False); flat beyond the outer centres. */
function enlarge(values, rows, columns, height, width) {
  const wide = new Float64Array(rows * width);
  neighbours(columns, width).forEach(([left, right, weight], x) => {
    for (let row = 0; row < rows; row += 1) {
      const start = row * columns;
      wide[row * width + x] = values[start + left] * (1 - weight) + values[start + right] * weight;
    }
  });
  const out = new Float64Array(height * width);
  neighbours(rows, height).forEach(([upper, lower, weight], y) => {
    for (let x = 0; x < width; x += 1) {
      out[y * width + x] = wide[upper * width + x] * (1 - weight) + wide[lower * width + x] * weight;
    }
  });
  return out;
}

/** For each of `many` places: the cell before it, the cell after it, and the weight of the latter. */
function neighbours(few, many) {
  return Array.from({ length: many }, (_, place) => {
    const exact = Math.max(0, Math.min(few - 1, ((place + 0.5) * few) / many - 0.5));
    const before = Math.floor(exact);
    return [before, exact > before ? before + 1 : before, exact - before]; // no weight, no say: it may be NaN
  });
}

/** A number with so many significant digits, without trailing zeros. */
function format(value, digits) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return trueMinus(value.toExponential(digits - 1).replace(/\.?0+e/, "e"));
  return trueMinus(String(Number(value.toPrecision(digits)) || 0));
}

/** Enough significant digits to tell the ticks of a range apart. */
function digitsFor(low, high) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high === low) return 4;
  return Math.min(8, Math.max(3, 2 + Math.ceil(Math.log10(size / (high - low)))));
}

export default (component) => mounted(views, component, (mount) => new HeatView(mount));
