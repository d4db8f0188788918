const REST_MS = 300; // the mask is told when nothing has been painted for so long
const MOST_UNDOS = 60;
const KEY_STEPS = 48; // arrow keys cross the longer side in so many
const LARGEST = 3; // brush: this part of the longer side
const TOOLS = { b: "brush", e: "eraser", r: "rectangle", l: "lasso" };
const HINTS = {
  brush: "Paint over the object. Ctrl wipes away.",
  eraser: "Wipe away what does not belong to the object.",
  rectangle: "Drag a rectangle over the object. Ctrl takes it away.",
  lasso: "Draw around the object. Ctrl takes it away.",
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const painters = new WeakMap();
const choices = new Map(); // tool, brush and mask on/off as the person left them, by key: they outlive a change of page

class MaskPainter {
  constructor(mount) {
    const find = (selector) => mount.querySelector(selector);
    this.root = find(".mask-painter");
    this.stage = find(".stage");
    this.pictureCanvas = find(".picture");
    this.maskCanvas = find(".mask");
    this.path = find(".path");
    this.drawnBox = find(".drawn");
    this.brush = find(".brush");
    this.cursorMark = find(".cursor");
    this.tools = [...mount.querySelectorAll("[data-tool]")];
    this.sizeLabel = find(".size");
    this.slider = find(".size input");
    this.sizeText = find(".size output");
    this.undoButton = find(".undo");
    this.redoButton = find(".redo");
    this.covered = find(".covered");
    this.hint = find(".hint");
    this.toggle = find(".toggle");
    this.live = find(".live");
    this.header = null; // what is on screen
    this.gesture = null; // what the pressed pointer is doing
    this.stretch = null; // corners of a rectangle drawn by keys
    this.cursor = null; // place of the keyboard, in pixels of the mask
    this.pending = 0; // stamp of the last report
    this.timer = null; // runs while the mask has not been told
    this.telling = 0;
    this.counts = { decodes: 0, paints: 0 };
    this.listen(find);
  }

  listen(find) {
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const on = (target, name, action) => target.addEventListener(name, action, { signal });
    on(this.stage, "pointerdown", (event) => this.pressed(event));
    on(this.stage, "pointermove", (event) => this.moved(event));
    on(this.stage, "pointerup", (event) => this.released(event));
    on(this.stage, "pointercancel", () => this.cancel());
    on(this.stage, "pointerleave", () => this.showBrush(null));
    on(this.stage, "contextmenu", (event) => event.ctrlKey && event.preventDefault()); // Ctrl and click on a Mac
    on(this.stage, "keydown", (event) => this.keyOnStage(event));
    on(this.stage, "blur", () => this.leaveKeys());
    on(this.root, "keydown", (event) => this.keyPressed(event));
    this.tools.forEach((button) => on(button, "click", () => this.choose({ tool: button.dataset.tool })));
    on(this.slider, "input", () => this.header && this.choose({ size: this.sizeAt(this.slider.valueAsNumber) }));
    on(this.undoButton, "click", () => this.travel(this.past, this.future));
    on(this.redoButton, "click", () => this.travel(this.future, this.past));
    on(find(".fill"), "click", () => this.change(() => this.mask.fill(1)));
    on(find(".clear"), "click", () => this.change(() => this.mask.fill(0)));
    on(find(".invert"), "click", () => this.change(() => this.mask.forEach((own, i) => (this.mask[i] = 1 - own))));
    on(this.toggle, "click", () => this.choose({ on: !this.choice().on }));
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
    header.bits = bytes.slice();
    if (!this.header) shapeStage(this.root, header); // keeps the place while the picture is on its way
    this.load(header);
  }

  async load(header) {
    let bitmap = null;
    let mask = null;
    try {
      if (header.picture !== this.header?.picture) {
        bitmap = await decode(await parts.get(header.picture), header.type);
        this.counts.decodes += 1;
      }
      if (bitmap || header.mask !== this.maskToken) mask = unpackBits(await inflate(header.bits), header.shape);
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    if (this.wanted !== header) {
      bitmap?.close();
      return;
    }
    this.accept(header, bitmap, mask);
  }

  fail() {
    this.root.dataset.error = "decode";
    this.covered.textContent = "The picture could not be decoded.";
  }

  accept(header, bitmap, mask) {
    this.header = header;
    shapeStage(this.root, header);
    this.stage.setAttribute("aria-label", header.aria);
    if (bitmap) this.begin(bitmap, mask);
    else this.takeMask(header, mask);
    this.root.dataset.decodes = this.counts.decodes;
    this.root.dataset.ready = header.picture;
  }

  /** A new picture. */
  begin(bitmap, mask) {
    this.bitmap?.close();
    clearTimeout(this.timer);
    Object.assign(this, { bitmap, mask, past: [], future: [], gesture: null, stretch: null, timer: null });
    Object.assign(this, { maskToken: this.header.mask, cursor: null, later: null, laidOut: "" });
    this.telling += 1;
    const [rows, columns] = this.header.shape;
    this.path.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    this.outline(null);
    this.applyChoice();
    this.layOut();
    this.showFacts();
  }

  /** What is being painted, or not yet answered, is not undone by the server's answer to something earlier. */
  takeMask(header, mask) {
    const busy = this.gesture || this.timer !== null || header.answers < this.pending;
    this.later = busy && mask ? [header, mask] : null;
    if (busy || !mask) return;
    this.maskToken = header.mask;
    if (mask.every((own, i) => own === this.mask[i])) return;
    this.remember(packBits(this.mask));
    this.mask.set(mask);
    this.paintAll();
    this.showFacts();
  }

  // ---- painting

  layOut() {
    const size = this.header && deviceSize(this.stage);
    if (!size || String(size) === this.laidOut) return;
    this.laidOut = String(size);
    const [width, height] = size;
    const [rows, columns] = this.header.shape;
    drawPicture(this.pictureCanvas, this.bitmap, width, height);
    Object.assign(this.maskCanvas, { width, height });
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.inside = new Uint8Array(width * height);
    this.columnOf = nearest(columns, width);
    this.rowOf = nearest(rows, height);
    this.paintAll();
    this.showBrush(null);
    this.showCursor();
  }

  paintAll() {
    const [rows, columns] = this.header.shape;
    this.paintSoon([0, 0, columns, rows]);
  }

  /** Paints a box of the mask, [left, top, right, bottom], with the next frame. */
  paintSoon(box, since = null) {
    this.unpainted = this.unpainted ? union(this.unpainted, box) : box;
    this.since ??= since;
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    const box = this.unpainted;
    this.frame = this.unpainted = null;
    if (!this.image || !box) return;
    const { width, height } = this.image;
    const [rows, columns] = this.header.shape;
    const margin = 3 * Math.ceil(devicePixelRatio) + 1; // lines reach beyond what has changed
    const left = Math.max(0, Math.floor((box[0] * width) / columns) - margin);
    const top = Math.max(0, Math.floor((box[1] * height) / rows) - margin);
    const right = Math.min(width, Math.ceil((box[2] * width) / columns) + margin);
    const bottom = Math.min(height, Math.ceil((box[3] * height) / rows) + margin);
    for (let y = top; y < bottom; y += 1) {
      const from = this.rowOf[y] * columns;
      for (let x = left; x < right; x += 1) this.inside[y * width + x] = this.mask[from + this.columnOf[x]];
    }
    paintMask(this.pixels, this.inside, width, height, [left, top, right, bottom], MASK_LOOK);
    this.maskCanvas.getContext("2d").putImageData(this.image, 0, 0, left, top, right - left, bottom - top);
    this.counts.paints += 1;
    this.root.dataset.paints = this.counts.paints;
    if (this.since !== null) this.root.dataset.ms = (performance.now() - this.since).toFixed(1);
    this.since = null;
    this.showCovered();
  }

  showCovered() {
    const num = this.mask.reduce((sum, own) => sum + own, 0);
    this.covered.textContent = num ? `${percent(num / this.mask.length)} marked` : "Nothing is marked yet.";
    this.root.dataset.covered = num;
  }

  showFacts() {
    this.undoButton.disabled = !this.past.length;
    this.redoButton.disabled = !this.future.length;
    this.showCovered();
  }

  // ---- changes, their history, and telling them

  change(action) {
    if (!this.header) return;
    const before = packBits(this.mask);
    action();
    this.commit(before);
    this.paintAll();
  }

  /** What was done becomes one step of the history. */
  commit(before) {
    const after = packBits(this.mask);
    if (!before.every((byte, i) => byte === after[i])) {
      this.remember(before);
      this.changed();
    } else if (this.later) this.takeMask(...this.later);
  }

  remember(before) {
    this.past = [...this.past, before].slice(-MOST_UNDOS);
    this.future = [];
    this.showFacts();
  }

  travel(from, to) {
    if (!from?.length || this.gesture) return;
    to.push(packBits(this.mask));
    this.mask.set(unpackBits(from.pop(), this.header.shape));
    this.paintAll();
    this.changed();
    this.live.textContent = this.covered.textContent;
  }

  changed() {
    this.showFacts();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tell(), REST_MS);
  }

  async tell() {
    if (this.gesture) return this.changed(); // once that is finished
    const turn = ++this.telling;
    const timer = this.timer;
    const { picture } = this.header;
    const bits = await deflate(packBits(this.mask));
    if (turn !== this.telling || timer !== this.timer || !this.header) return undefined;
    this.timer = null;
    this.pending = this.report([toBase64(bits), picture], "mask");
    this.root.dataset.told = this.pending;
    return undefined;
  }

  // ---- tools

  choice() {
    const [rows, columns] = this.header.shape;
    const size = Math.max(1, Math.round(Math.max(rows, columns) / 14));
    return { tool: "brush", size, on: true, ...choices.get(this.header.key) };
  }

  choose(change) {
    if (!this.header) return;
    choices.set(this.header.key, { ...choices.get(this.header.key), ...change });
    this.applyChoice();
  }

  applyChoice() {
    const { tool, size, on } = this.choice();
    const round = tool === "brush" || tool === "eraser";
    this.tools.forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === tool));
    this.sizeLabel.classList.toggle("unused", !round);
    this.slider.value = this.placeOf(size);
    this.slider.style.setProperty("--filled", `${this.slider.value}%`);
    this.sizeText.textContent = `${size} px`;
    this.slider.setAttribute("aria-valuetext", this.sizeText.textContent);
    this.hint.textContent = HINTS[tool];
    this.toggle.setAttribute("aria-pressed", on);
    this.maskCanvas.classList.toggle("off", !on);
    this.root.dataset.tool = tool;
    this.root.dataset.size = size;
    this.showBrush(this.brushAt ?? null);
  }

  largest() {
    return Math.max(2, Math.round(Math.max(...this.header.shape) / LARGEST));
  }

  /** Small sizes have more of the slider than large ones. */
  sizeAt(place) {
    return Math.round(this.largest() ** (place / 100));
  }

  placeOf(size) {
    return Math.round((100 * Math.log(size)) / Math.log(this.largest()));
  }

  resize(factor) {
    const { size } = this.choice();
    const next = factor > 1 ? Math.ceil(size * factor) : Math.floor(size * factor);
    this.choose({ size: Math.max(1, Math.min(this.largest(), next)) });
  }

  // ---- pointer

  /** Place of the pointer in pixels of the mask, not rounded. */
  placeAt(event) {
    const box = this.stage.getBoundingClientRect();
    const [rows, columns] = this.header.shape;
    return [((event.clientX - box.left) / box.width) * columns, ((event.clientY - box.top) / box.height) * rows];
  }

  pressed(event) {
    if (!this.header || event.button !== 0 || !event.isPrimary) return;
    const { tool, on } = this.choice();
    if (!on) this.choose({ on: true }); // nobody paints blindly
    this.leaveKeys();
    this.stage.setPointerCapture(event.pointerId);
    const place = this.placeAt(event);
    const value = tool === "eraser" || event.ctrlKey || event.metaKey || event.altKey ? 0 : 1;
    this.gesture = { tool, value, from: place, path: [place], before: packBits(this.mask) };
    this.drag(event);
  }

  moved(event) {
    if (!this.header) return;
    this.showBrush(event.pointerType === "touch" && !this.gesture ? null : event);
    if (!this.gesture) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    (passed.length ? passed : [event]).forEach((each) => this.drag(each));
  }

  drag(event) {
    const { tool, path, from } = this.gesture;
    const place = this.placeAt(event);
    const last = path.at(-1);
    if (tool === "rectangle") this.outline(this.pixelBox(from, place));
    else if (tool === "lasso") this.showPath(place);
    else this.stroke(last, place, this.gesture.value, event.timeStamp);
    path.push(place);
  }

  released(event) {
    const { gesture } = this;
    if (!gesture) return;
    this.gesture = null;
    this.outline(null);
    const place = this.placeAt(event);
    if (gesture.tool === "rectangle") this.fillBox(this.pixelBox(gesture.from, place), gesture.value);
    if (gesture.tool === "lasso") this.fillPath(gesture.path, gesture.value);
    this.commit(gesture.before);
  }

  cancel() {
    if (!this.gesture) return;
    this.mask.set(unpackBits(this.gesture.before, this.header.shape));
    const { before } = this.gesture;
    this.gesture = null;
    this.outline(null);
    this.paintAll();
    this.commit(before);
  }

  /** The pixels of the mask between two places, both included: [left, top, right, bottom]. */
  pixelBox([x, y], [u, v]) {
    const [rows, columns] = this.header.shape;
    const pixel = (at, size) => Math.max(0, Math.min(size - 1, Math.floor(at)));
    const [a, b] = [pixel(x, columns), pixel(u, columns)];
    const [c, d] = [pixel(y, rows), pixel(v, rows)];
    return [Math.min(a, b), Math.min(c, d), Math.max(a, b) + 1, Math.max(c, d) + 1];
  }

  /** Everything within half the brush's size of a line. */
  stroke([x, y], [u, v], value, since) {
    const [rows, columns] = this.header.shape;
    const radius = this.choice().size / 2;
    const [left, right] = [Math.floor(Math.min(x, u) - radius), Math.ceil(Math.max(x, u) + radius) + 1];
    const [top, bottom] = [Math.floor(Math.min(y, v) - radius), Math.ceil(Math.max(y, v) + radius) + 1];
    const box = [Math.max(0, left), Math.max(0, top), Math.min(columns, right), Math.min(rows, bottom)];
    if (box[0] >= box[2] || box[1] >= box[3]) return;
    const length = (u - x) ** 2 + (v - y) ** 2 || 1;
    for (let row = box[1]; row < box[3]; row += 1) {
      for (let column = box[0]; column < box[2]; column += 1) {
        const [across, down] = [column + 0.5 - x, row + 0.5 - y];
        const along = Math.max(0, Math.min(1, (across * (u - x) + down * (v - y)) / length));
        const away = (across - along * (u - x)) ** 2 + (down - along * (v - y)) ** 2;
        if (away <= radius * radius) this.mask[row * columns + column] = value;
      }
    }
    const [column, row] = [Math.floor(u), Math.floor(v)]; // the smallest brush marks at least where it is
    if (column >= 0 && column < columns && row >= 0 && row < rows) this.mask[row * columns + column] = value;
    this.paintSoon(box, since);
  }

  fillBox(box, value) {
    const [, columns] = this.header.shape;
    const [left, top, right, bottom] = box;
    for (let row = top; row < bottom; row += 1) this.mask.fill(value, row * columns + left, row * columns + right);
    this.paintSoon(box);
  }

  /** A polygon; what its line goes round twice counts, too. */
  fillPath(path, value) {
    const [rows, columns] = this.header.shape;
    const context = new OffscreenCanvas(columns, rows).getContext("2d", { willReadFrequently: true });
    path.forEach(([x, y]) => context.lineTo(x, y));
    context.fill();
    const { data } = context.getImageData(0, 0, columns, rows);
    for (let i = 0; i < this.mask.length; i += 1) if (data[4 * i + 3] > 127) this.mask[i] = value;
    this.paintAll();
  }

  showPath(place) {
    this.path.removeAttribute("hidden");
    const points = [...this.gesture.path, place].map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    [...this.path.children].forEach((polygon) => polygon.setAttribute("points", points));
  }

  outline(box) {
    this.drawnBox.hidden = !box;
    if (!box) {
      this.path.setAttribute("hidden", "");
      return;
    }
    const [rows, columns] = this.header.shape;
    this.drawnBox.style.left = `${(100 * box[0]) / columns}%`;
    this.drawnBox.style.top = `${(100 * box[1]) / rows}%`;
    this.drawnBox.style.width = `${(100 * (box[2] - box[0])) / columns}%`;
    this.drawnBox.style.height = `${(100 * (box[3] - box[1])) / rows}%`;
  }

  /** The brush around the pointer. */
  showBrush(at) {
    this.brushAt = at && { clientX: at.clientX, clientY: at.clientY };
    this.brush.hidden = true;
    if (!at || !this.header) return; // the pointer may leave before the picture is there
    const { tool, size } = this.choice();
    this.brush.hidden = !(tool === "brush" || tool === "eraser");
    if (this.brush.hidden) return;
    const box = this.stage.getBoundingClientRect();
    const side = (size * box.width) / this.header.shape[1];
    this.brush.style.width = this.brush.style.height = `${Math.max(4, side)}px`;
    this.brush.style.left = `${at.clientX - box.left}px`;
    this.brush.style.top = `${at.clientY - box.top}px`;
    this.brush.classList.toggle("erases", tool === "eraser" || this.gesture?.value === 0);
  }

  // ---- keyboard

  /** Keys that work wherever one is in the component. */
  keyPressed(event) {
    if (!this.header || event.altKey) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z" && !event.shiftKey) this.travel(this.past, this.future);
      else if (key === "y" || key === "z") this.travel(this.future, this.past);
      else return;
    } else if (key in TOOLS) this.choose({ tool: TOOLS[key] });
    else if (key === "[") this.resize(1 / 1.25);
    else if (key === "]") this.resize(1.25);
    else if (key === "m") this.choose({ on: !this.choice().on });
    else if (key === "escape" && (this.gesture || this.stretch)) {
      this.cancel();
      this.leaveKeys();
    } else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }

  keyOnStage(event) {
    if (!this.header || event.ctrlKey || event.metaKey || event.altKey || this.gesture) return;
    if (event.key in ARROWS) this.walk(ARROWS[event.key], event.shiftKey);
    else if (event.key === "Enter" || event.key === " ") this.apply();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Arrow keys move a cursor; with Shift they stretch a rectangle, which Enter takes. */
  walk([right, down], stretches) {
    const [rows, columns] = this.header.shape;
    const step = Math.max(1, Math.round(Math.max(rows, columns) / KEY_STEPS));
    const to = (at, by, size) => Math.max(0, Math.min(size - 1, at + by * step));
    const first = !this.cursor;
    const [x, y] = this.cursor ?? [Math.floor(columns / 2), Math.floor(rows / 2)];
    if (stretches) this.stretch ??= [x, y];
    else this.stretch = null;
    // The first key shows where one is, the next ones move.
    this.cursor = first && !stretches ? [x, y] : [to(x, right, columns), to(y, down, rows)];
    this.showBrush(null);
    this.showCursor();
    const box = this.stretch && this.pixelBox(this.stretch, this.cursor);
    this.outline(box);
    const verb = this.choice().tool === "eraser" ? "wipes it away" : "marks it";
    this.live.textContent = box
      ? `rectangle of ${box[2] - box[0]} by ${box[3] - box[1]} pixels; Enter ${verb}`
      : `row ${this.cursor[1]}, column ${this.cursor[0]}: ${this.isMarked(this.cursor) ? "marked" : "not marked"}`;
  }

  isMarked([x, y]) {
    return this.mask[y * this.header.shape[1] + x] === 1;
  }

  /** Takes the rectangle, or else sets the brush down once. */
  apply() {
    if (!this.cursor) return this.walk([0, 0], false);
    const { tool } = this.choice();
    const value = tool === "eraser" ? 0 : 1;
    const { stretch } = this;
    const place = this.cursor.map((at) => at + 0.5);
    if (stretch) this.change(() => this.fillBox(this.pixelBox(stretch, this.cursor), value));
    else if (tool === "brush" || tool === "eraser") this.change(() => this.stroke(place, place, value, null));
    this.stretch = null;
    this.outline(null);
    this.live.textContent = this.covered.textContent;
    return undefined;
  }

  showCursor() {
    this.cursorMark.hidden = !this.cursor;
    this.root.dataset.cursor = this.cursor?.join(",") ?? "";
    if (!this.cursor) return;
    const [rows, columns] = this.header.shape;
    this.cursorMark.style.left = `${(100 * (this.cursor[0] + 0.5)) / columns}%`;
    this.cursorMark.style.top = `${(100 * (this.cursor[1] + 0.5)) / rows}%`;
  }

  leaveKeys() {
    if (this.stretch && !this.gesture) this.outline(null);
    this.stretch = this.cursor = null;
    if (this.header) this.showCursor();
  }
}

function union(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

/** One bit per pixel, the first one in the lowest. */
function packBits(mask) {
  const bits = new Uint8Array(Math.ceil(mask.length / 8));
  for (let i = 0; i < mask.length; i += 1) bits[i >> 3] |= mask[i] << (i & 7);
  return bits;
}

function unpackBits(bits, [rows, columns]) {
  const mask = new Uint8Array(rows * columns);
  for (let i = 0; i < mask.length; i += 1) mask[i] = (bits[i >> 3] >> (i & 7)) & 1;
  return mask;
}

function deflate(bytes) {
  return piped(bytes, new CompressionStream("deflate-raw"));
}

function inflate(bytes) {
  return piped(bytes, new DecompressionStream("deflate-raw"));
}

async function piped(bytes, through) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(through)).arrayBuffer());
}

function toBase64(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

export default (component) => mounted(painters, component, (mount) => new MaskPainter(mount));
