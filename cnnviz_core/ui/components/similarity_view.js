const GAP = 24; // CSS px between pictures
const LEAST = 220; // a row breaks where its pictures' longer sides would become shorter, CSS px
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const JOINED = { mean: "mean of", max: "most alike of" };
const views = new WeakMap();
const choices = new Map(); // what the person set in the browser, by key: it outlives a change of page

class SimilarityView {
  constructor(mount) {
    const find = (selector) => mount.querySelector(selector);
    this.root = find(".similarity-view");
    this.row = find(".row");
    this.template = find(".pane");
    this.template.remove();
    this.lines = new Lines(find(".lines"));
    this.bar = find(".bar canvas");
    this.scaleMark = find(".mark");
    this.ticks = mount.querySelectorAll(".ticks span");
    this.tools = [...mount.querySelectorAll("[data-tool]")];
    this.unpinButton = find(".unpin");
    this.stretchButton = find(".stretch");
    this.onButton = find(".on");
    this.slider = find("input");
    this.percent = find("output");
    this.hint = find(".hint");
    this.live = find(".live");
    this.panes = [];
    this.held = new Map(); // token -> vectors and exact maps that are in use
    this.header = null; // what is on screen
    this.pinned = null; // an Origin
    this.pointed = null; // likewise, of one cell
    this.drawn = null; // likewise, while it is brushed
    this.pending = 0; // stamp of what was told last
    this.counts = { decodes: 0, paints: 0, updates: 0 };
    this.listen();
  }

  listen() {
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const on = (target, name, action) => target.addEventListener(name, action, { signal });
    this.tools.forEach((button) => on(button, "click", () => this.choose({ tool: button.dataset.tool })));
    on(this.unpinButton, "click", () => this.pin(null));
    on(this.stretchButton, "click", () => this.choose({ stretch: !this.choice().stretch }));
    on(this.onButton, "click", () => this.choose({ on: !this.choice().on }));
    on(this.slider, "input", () => this.choose({ opacity: this.slider.valueAsNumber / 100, on: true }));
    this.resizes = new ResizeObserver(() => this.layOut());
    this.resizes.observe(this.root);
    onPixelRatio(() => this.layOut(), signal);
  }

  /** One more picture. */
  addPane() {
    const pane = new Pane(this.template.cloneNode(true));
    const number = this.panes.push(pane) - 1;
    this.row.insertBefore(pane.root, this.lines.canvas);
    const { signal } = pane.listeners;
    const on = (name, action) => pane.stage.addEventListener(name, action, { signal });
    on("pointerdown", (event) => this.pressed(number, event));
    on("pointermove", (event) => this.moved(number, event));
    on("pointerup", () => this.released());
    on("pointercancel", () => this.draw(null));
    on("pointerleave", (event) => event.pointerType !== "touch" && this.left());
    on("click", (event) => this.clicked(number, event));
    on("keydown", (event) => this.keyPressed(number, event));
    on("blur", () => {
      this.draw(null);
      this.left();
    });
  }

  close() {
    this.listeners.abort();
    this.resizes.disconnect();
    cancelAnimationFrame(this.frame);
    this.panes.forEach((pane) => pane.close());
    this.held.clear();
    this.header = this.wanted = null;
  }

  // ---- what the server says

  update({ header, bytes }, report) {
    this.report = report;
    this.wanted = header;
    header.lut = bytes;
    this.load(header);
  }

  /** All pictures and vectors change together, or the old ones stay. */
  async load(header) {
    const start = performance.now();
    const held = new Map();
    const bitmaps = new Map(); // of the pictures that are not on screen
    const take = async (token, prepare) => {
      if (!held.has(token)) held.set(token, this.held.get(token) ?? prepare(await parts.get(token)));
      return held.get(token);
    };
    const exact = [];
    try {
      for (const [at, { picture, type, vectors, cells, bits }] of header.pictures.entries()) {
        const shown = this.panes[at]?.info.picture === picture || bitmaps.has(picture);
        if (!shown) bitmaps.set(picture, await decode(await parts.get(picture), type));
        await take(vectors, (bytes) => toVectors(bytes, cells[0] * cells[1], bits));
      }
      for (const [at, token] of Object.entries(header.exact)) exact[at] = await take(token, toFloats);
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    if (this.wanted === header) {
      this.held = held;
      this.accept(header, bitmaps, exact);
      this.root.dataset.loadMs = (performance.now() - start).toFixed(1);
    }
    bitmaps.forEach((bitmap) => bitmap.close());
  }

  fail() {
    this.root.dataset.error = "decode";
    this.hint.textContent = this.live.textContent = "The pictures could not be decoded.";
  }

  accept(header, bitmaps, exact) {
    const before = this.header;
    this.header = header;
    this.counts.decodes += bitmaps.size;
    while (this.panes.length < header.pictures.length) this.addPane();
    while (this.panes.length > header.pictures.length) this.panes.pop().close();
    this.panes.forEach((pane, at) => {
      const bitmap = bitmaps.get(header.pictures[at].picture);
      if (bitmap) pane.drawPicture(bitmap);
      pane.accept(header.pictures[at], header.aria);
    });
    const look = ({ pictures, join }) => JSON.stringify([pictures.map(({ vectors, cells }) => [vectors, cells]), join]);
    if (!before || look(before) !== look(header)) this.forget();
    // A pin that the server has not yet answered is not undone by its answer to an earlier one.
    if (header.answers >= this.pending) this.acceptPin(header.pinned, exact);
    if (!before || String(before.lut) !== String(header.lut)) {
      this.colours = toColours(header.lut);
      drawBar(this.bar, this.colours);
    }
    this.layOut();
    this.applyChoice();
    this.root.dataset.ready = header.pictures.map(({ picture, vectors }) => `${picture} ${vectors}`).join(" ");
  }

  /** Other vectors: what was found with the old ones no longer holds. */
  forget() {
    this.vectors = this.header.pictures.map(({ vectors }) => this.held.get(vectors));
    const fits = (origin) => origin?.cells.every((cell) => cell < (this.panes[origin.picture]?.num ?? 0));
    const renewed = (origin) => (fits(origin) ? new Origin(origin.picture, origin.cells) : null);
    [this.pinned, this.pointed, this.drawn] = [this.pinned, this.pointed, this.drawn].map(renewed);
  }

  acceptPin(pinned, exact) {
    const told = pinned && new Origin(pinned.picture, pinned.cells);
    const kept = told?.same(this.pinned) ? this.pinned : told; // with the maps that it has
    this.pinned = kept;
    if (kept) kept.exact = exact;
  }

  // ---- layout

  layOut() {
    const { header } = this;
    const width = this.root.clientWidth;
    if (!header || width === 0) return; // in a hidden tab; the observer calls again
    const shown = this.panes.map((pane) => pane.share * header.maxPx);
    const scale = scaleFor(shown, width, header.maxPx);
    this.panes.forEach((pane, at) => pane.place(Math.floor(shown[at] * scale)));
    const ratio = devicePixelRatio || 1;
    this.panes.forEach((pane) => pane.sizeMarks(ratio));
    this.lines.size([this.row.clientWidth, this.row.clientHeight], ratio);
    this.request();
  }

  // ---- what the person chose to see

  choice() {
    const first = { opacity: this.header?.opacity ?? 1, on: true, tool: "point", stretch: false };
    return { ...first, ...choices.get(this.header?.key) };
  }

  choose(change) {
    choices.set(this.header.key, { ...choices.get(this.header.key), ...change });
    this.applyChoice();
  }

  applyChoice() {
    const { opacity, on, tool, stretch } = this.choice();
    const percent = Math.round(100 * opacity);
    this.slider.value = percent;
    this.slider.style.setProperty("--filled", `${percent}%`);
    this.percent.textContent = `${percent} %`;
    this.slider.setAttribute("aria-valuetext", this.percent.textContent);
    this.onButton.setAttribute("aria-pressed", on);
    this.stretchButton.setAttribute("aria-pressed", stretch);
    this.tools.forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === tool));
    this.row.classList.toggle("brush", tool === "brush");
    this.root.style.setProperty("--opacity", on ? opacity : 0);
    Object.assign(this.root.dataset, { opacity: on ? percent : 0, tool, stretch });
    this.request();
  }

  // ---- which picture shows what

  /** What a picture's similarity is measured to; null where it shows none. */
  originFor(picture) {
    const { pinned, pointed, drawn } = this;
    const other = (origin) => (origin && origin.picture !== picture ? origin : null);
    if (drawn) return other(drawn);
    if (!pointed) return other(pinned);
    if (!pinned) return other(pointed);
    if (pointed.picture !== pinned.picture) return other(pinned) ?? pointed; // a value is read; the pinned one answers
    return other(pinned.cells.includes(pointed.cells[0]) ? pinned : pointed);
  }

  request() {
    this.frame ??= requestAnimationFrame((now) => {
      this.frame = undefined;
      if (this.header) this.render(now);
    });
  }

  render(now) {
    const start = performance.now();
    const fades = this.leaving && !this.pointed && !STILL.matches; // not on the way from picture to picture
    const shown = this.panes.map((pane, at) => {
      const origin = this.originFor(at);
      const values = origin && origin.map(this.vectors, at, this.header.join);
      pane.show(values, fades ? now : null);
      pane.root.classList.toggle("mapped", Boolean(origin));
      return { pane, at, origin, values, best: values && indexOfMost(values) };
    });
    this.leaving = false;
    if (this.drawn) this.drawn.before = null; // its maps are there
    const look = this.look(shown);
    const painted = shown.map(({ pane }) => pane.paint(look, now));
    this.counts.paints += painted.filter(([changed]) => changed).length;
    shown.forEach((one) => this.annotate(one));
    this.showScale(look, shown);
    this.showLines();
    this.showStatus();
    this.counts.updates += 1;
    const ms = (performance.now() - start).toFixed(2);
    Object.assign(this.root.dataset, this.counts, { ms });
    if (painted.some(([, moving]) => moving)) this.request();
  }

  /** The colours and the range they stand for; the same object as long as nothing changes. */
  look(shown) {
    const { smooth } = this.header;
    let { low, high } = this.header;
    if (this.choice().stretch && shown.some(({ values }) => values)) [low, high] = extremes(shown);
    const { colours } = this;
    const last = this.lastLook;
    const same = last?.colours === colours && last.low === low && last.high === high && last.smooth === smooth;
    return (this.lastLook = same ? last : { colours, low, high, smooth });
  }

  annotate({ pane, at, origin, values, best }) {
    const { pinned, pointed, drawn } = this;
    const of = (one) => (one?.picture === at ? one.cells : []);
    pane.mark({
      pinned: drawn?.picture === at ? [] : of(pinned),
      drawn: of(drawn),
      pointed: of(drawn ? null : pointed)[0] ?? null,
      best,
    });
    pane.placeChip(best, best !== null && this.number(values[best], origin, at));
    const read = of(pointed)[0] ?? null;
    const value = read !== null && values ? values[read] : NaN;
    pane.root.dataset.origin = origin ? told(origin, this.panes) : "";
    pane.root.dataset.exact = Boolean(origin?.exact[at]);
    pane.root.dataset.value = Number.isNaN(value) ? "" : String(value);
    pane.readout.textContent = this.words(pane, at, read, value, origin, best, values);
    pane.readout.classList.toggle("idle", read === null && !of(pinned).length && !of(drawn).length);
  }

  /** What is written below a picture. */
  words(pane, at, read, value, origin, best, values) {
    const own = [this.drawn, this.pinned].find((one) => one?.picture === at);
    if (this.drawn && own === this.drawn) return this.gathered(own);
    if (read !== null && values) return `${pane.words(read)}: ${this.number(value, origin, at, true)}`;
    if (read !== null) return pane.words(read) + (own?.cells.includes(read) ? ", pinned" : "");
    if (best !== null) return `best ${this.number(values[best], origin, at)} at ${pane.words(best)}`;
    if (!own) return "";
    return own.cells.length === 1 ? `${pane.words(own.cells[0])}, pinned` : `${this.gathered(own)}, pinned`;
  }

  gathered({ cells }) {
    return `${JOINED[this.header.join]} ${cells.length} ${cells.length === 1 ? "cell" : "cells"}`;
  }

  /** A similarity; the browser's own is not as precise as the server's. */
  number(value, origin, picture, tells = false) {
    if (!Number.isFinite(value)) return "no value";
    const exact = Boolean(origin.exact[picture]);
    const text = trueMinus(value.toFixed(tells && exact ? 4 : 3));
    return tells ? text + (exact ? " exact" : "") : text;
  }

  showScale({ low, high }, shown) {
    const range = [low, (low + high) / 2, high];
    const digits = this.choice().stretch ? 3 : 2;
    const texts = range.map((value) => trueMinus(String(Number(value.toFixed(digits)) || 0)));
    this.ticks[0].textContent = texts[0];
    this.ticks[1].textContent = low < high ? texts[1] : "";
    this.ticks[2].textContent = `${texts[2]} cosine similarity`;
    const one = shown.find(({ at, values }) => values && at === this.pointed?.picture);
    const value = one ? one.values[this.pointed.cells[0]] : NaN;
    this.scaleMark.hidden = !Number.isFinite(value);
    if (this.scaleMark.hidden) return;
    const share = high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0.5;
    this.scaleMark.style.left = `${100 * share}%`;
  }

  showLines() {
    const { pinned, pointed, drawn } = this;
    const previews = pointed && pinned?.picture === pointed.picture && !pinned.cells.includes(pointed.cells[0]);
    this.lines.draw(this.header.lines, this.panes, {
      faint: Boolean(drawn ?? previews),
      pointed: drawn ? null : pointed,
      pinned,
    });
  }

  showStatus() {
    const { pinned, pointed, drawn } = this;
    const name = (origin) => (origin ? told(origin, this.panes) : "");
    Object.assign(this.root.dataset, { pinned: name(pinned), hover: name(pointed), drawn: name(drawn) });
    this.unpinButton.disabled = !pinned;
    const brush = this.choice().tool === "brush";
    const act = brush
      ? "Drag over the cells of one picture, Shift adds to those that are pinned."
      : "Point at a cell to see what is alike, click to pin it; Shift adds cells to the pin.";
    const { error } = this.header;
    const about = error > 0 ? ` Values that follow the pointer are within ±${roundedUp(error)}.` : "";
    this.hint.textContent = act + about;
  }

  // ---- pointer

  point(picture, cell) {
    const { pointed } = this;
    if (pointed?.picture === picture && pointed.cells[0] === cell) return;
    this.pointed = new Origin(picture, [cell]);
    this.request();
  }

  left() {
    if (!this.pointed || this.drawn) return;
    this.pointed = null;
    this.leaving = true;
    this.request();
  }

  pressed(picture, event) {
    this.dragged = false;
    const brushes = this.choice().tool === "brush" || event.shiftKey;
    if (!this.header || event.button !== 0 || !brushes) return;
    const pane = this.panes[picture];
    pane.stage.setPointerCapture(event.pointerId);
    this.dragged = true; // the click that follows is part of it
    this.draw(this.begun(picture, event.shiftKey).with(pane.cellAt(event)));
  }

  /** What is brushed starts afresh, or with what is pinned. */
  begun(picture, adds) {
    const { pinned } = this;
    return adds && pinned?.picture === picture ? new Origin(picture, pinned.cells, pinned) : new Origin(picture, []);
  }

  moved(picture, event) {
    if (!this.header) return;
    const cell = this.panes[picture].cellAt(event);
    if (this.drawn?.picture === picture && this.dragged) {
      const from = this.lastCell ?? cell;
      this.draw(this.panes[picture].between(from, cell).reduce((origin, each) => origin.with(each), this.drawn));
    }
    this.lastCell = cell;
    this.point(picture, cell);
  }

  released() {
    if (this.drawn && this.dragged) this.finish();
  }

  /** null: gives up. */
  draw(origin) {
    if (origin === this.drawn) return;
    if (!this.drawn) this.lastCell = origin.cells.at(-1);
    this.drawn = origin;
    this.request();
  }

  finish() {
    const { drawn } = this;
    this.drawn = null;
    this.pin(drawn);
  }

  clicked(picture, event) {
    if (!this.header || this.dragged) {
      this.dragged = false;
      return;
    }
    const cell = this.panes[picture].cellAt(event);
    this.point(picture, cell);
    this.pinOrUnpin(picture, cell);
  }

  pinOrUnpin(picture, cell) {
    const again = this.pinned?.same({ picture, cells: [cell] });
    this.pin(again ? null : new Origin(picture, [cell]));
  }

  pin(origin) {
    this.pinned = origin;
    this.request();
    const start = this.panes.slice(0, origin?.picture ?? 0).reduce((sum, pane) => sum + pane.num, 0);
    this.pending = this.report(origin ? origin.cells.map((cell) => start + cell) : [], "pin");
  }

  // ---- keyboard

  keyPressed(picture, event) {
    if (!this.header || event.ctrlKey || event.metaKey || event.altKey) return;
    const pane = this.panes[picture];
    const [rows, columns] = pane.info.cells;
    const known = [this.pointed, this.pinned].find((origin) => origin?.picture === picture);
    const [row, column] = known
      ? pane.placeOf(known.cells.at(-1))
      : [Math.floor(rows / 2), Math.floor(columns / 2)];
    const ends = { Home: [row, 0], End: [row, columns - 1], PageUp: [0, column], PageDown: [rows - 1, column] };
    if (event.key in ARROWS) {
      // The first key shows where one is, the next ones move.
      const [down, right] = this.pointed?.picture === picture || known ? ARROWS[event.key] : [0, 0];
      const to = [Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + right))];
      this.walk(picture, to, event.shiftKey && [row, column]);
    } else if (event.key in ends) this.walk(picture, ends[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.enter(picture, row * columns + column);
    else if (event.key === "Escape") this.escape();
    else if (event.key.toLowerCase() === "m") this.choose({ on: !this.choice().on });
    else if (event.key.toLowerCase() === "b") this.choose({ tool: this.choice().tool === "brush" ? "point" : "brush" });
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }

  /** Moves the cursor; from a place it also brushes from there on. */
  walk(picture, [row, column], from = null) {
    const columns = this.panes[picture].info.cells[1];
    const cell = row * columns + column;
    if (from) {
      this.dragged = false;
      const begun = this.drawn?.picture === picture ? this.drawn : new Origin(picture, [from[0] * columns + from[1]]);
      this.draw(begun.with(cell));
    }
    this.point(picture, cell);
    this.say(picture);
  }

  enter(picture, cell) {
    if (this.drawn) this.finish();
    else {
      this.point(picture, cell);
      this.pinOrUnpin(picture, cell);
    }
    this.say(picture);
  }

  escape() {
    if (this.drawn) {
      this.drawn = null;
      this.dragged = true; // what the pointer does until it is up means nothing
    } else if (this.pinned) this.pin(null);
    else this.left();
    this.request();
  }

  /** Tells a screen reader what is below the pictures, once it is there. */
  say(picture) {
    requestAnimationFrame(() => {
      const others = this.panes.filter((pane, at) => at !== picture && pane.readout.textContent);
      const texts = others.map((pane) => `${pane.info.name}: ${pane.readout.textContent}`);
      this.live.textContent = [this.panes[picture].readout.textContent, ...texts].join("; ");
    });
  }
}

/** How much pictures shrink so that they fit in as few rows as their smallest size allows. */
function scaleFor(shown, width, maxPx) {
  for (let perRow = shown.length; ; perRow -= 1) {
    const rows = shown.flatMap((_, at) => (at % perRow ? [] : [shown.slice(at, at + perRow)]));
    const room = rows.map((row) => (width - GAP * (row.length - 1)) / row.reduce((sum, length) => sum + length));
    const scale = Math.min(1, ...room);
    if (scale * maxPx >= Math.min(LEAST, maxPx) || perRow === 1) return scale;
  }
}

function extremes(shown) {
  let [low, high] = [Infinity, -Infinity];
  for (const { values } of shown) {
    for (const value of values ?? []) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : [0, 0];
}

/** An origin as tests and style sheets read it: "0:3,5" for picture 0, row 3, column 5. */
function told({ picture, cells }, panes) {
  return `${picture}:${cells.map((cell) => panes[picture].placeOf(cell).join(",")).join(" ")}`;
}

/** An error bound with one significant digit, never too small. */
function roundedUp(error) {
  const unit = 10 ** Math.floor(Math.log10(error) + 1e-9);
  return String(Number((Math.ceil(error / unit - 1e-6) * unit).toPrecision(1)));
}

function drawBar(canvas, colours) {
  const image = new ImageData(LEVELS, 1);
  new Uint32Array(image.data.buffer).set(colours);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function toFloats(bytes) {
  return new Float32Array(bytes.slice().buffer); // a copy starts at a multiple of four
}

export default (component) => mounted(views, component, (mount) => new SimilarityView(mount));
