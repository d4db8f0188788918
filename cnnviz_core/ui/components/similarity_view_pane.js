// One picture with its map, its cells and their marks.

const FADE_MS = 160; // from a preview back to the pinned map
const LEVELS = 255; // of the colour table's 256 rows; the last one is for missing values
const SMOOTH_PX = 256; // longer side of an interpolated map; the browser enlarges it to the screen
const MARGIN = 4; // CSS px around the stage for outlines at its edges
const GLOW = 90; // CSS px around the pointer in which the grid is seen

class Pane {
  constructor(root) {
    const find = (selector) => root.querySelector(selector);
    this.root = root;
    this.name = find(".name");
    this.grid = find(".grid");
    this.stage = find(".stage");
    this.pictureCanvas = find(".picture");
    this.mapCanvas = find(".map");
    this.marks = find(".marks");
    this.chip = find(".best");
    this.readout = find(".readout");
    this.values = null; // what the map shows, or fades to
    this.from = null; // what it fades from
    this.listeners = new AbortController();
  }

  close() {
    this.listeners.abort();
    this.root.remove();
  }

  // ---- what the server says

  accept(info, aria) {
    const [rows, columns] = info.cells;
    if (String(info.cells) !== String(this.info?.cells)) {
      this.enlarger = new Enlarger(rows, columns, Math.max(1, Math.round(SMOOTH_PX / Math.max(rows, columns))));
      this.values = this.from = null;
    }
    this.info = info;
    this.name.textContent = this.name.title = info.name;
    this.grid.textContent = `${rows} × ${columns} cells`;
    this.stage.setAttribute("aria-label", `${aria}: ${info.name}`);
  }

  drawPicture(bitmap) {
    this.pictureCanvas.width = bitmap.width;
    this.pictureCanvas.height = bitmap.height;
    this.pictureCanvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  // ---- geometry

  get num() {
    return this.info.cells[0] * this.info.cells[1];
  }

  /** Width when the longer side is one px long. */
  get share() {
    const [width, height] = this.info.size;
    return width / Math.max(width, height);
  }

  /** Sets the width, CSS px; its picture keeps its proportions. */
  place(width) {
    const [natural, high] = this.info.size;
    this.root.style.width = `${width}px`;
    this.stage.style.aspectRatio = `${natural} / ${high}`;
    // A picture of few pixels is shown as such, not blurred into something the network never saw.
    this.pictureCanvas.classList.toggle("pixelated", width >= 4 * natural);
  }

  sizeMarks(ratio) {
    this.ratio = ratio;
    this.width = this.stage.clientWidth;
    this.height = this.stage.clientHeight;
    [this.left, this.top] = [this.stage.offsetLeft, this.stage.offsetTop]; // within the row
    this.marks.width = Math.round((this.width + 2 * MARGIN) * ratio);
    this.marks.height = Math.round((this.height + 2 * MARGIN) * ratio);
    this.marked = null;
  }

  cellAt({ clientX, clientY }) {
    const box = this.stage.getBoundingClientRect();
    const [rows, columns] = this.info.cells;
    const index = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    const row = index((clientY - box.top) / box.height, rows);
    return row * columns + index((clientX - box.left) / box.width, columns);
  }

  placeOf(cell) {
    const columns = this.info.cells[1];
    return [Math.floor(cell / columns), cell % columns];
  }

  /** Left and top of a cell's middle within the stage, CSS px. */
  middleOf(cell) {
    const [rows, columns] = this.info.cells;
    const [row, column] = this.placeOf(cell);
    return [((column + 0.5) * this.width) / columns, ((row + 0.5) * this.height) / rows];
  }

  /** The cells on the way from one to another, without the first. */
  between(from, to) {
    const [[row, column], [toRow, toColumn]] = [from, to].map((cell) => this.placeOf(cell));
    const num = Math.max(Math.abs(toRow - row), Math.abs(toColumn - column));
    const on = (start, end, step) => Math.round(start + ((end - start) * step) / num);
    const columns = this.info.cells[1];
    return Array.from({ length: num }, (_, i) => on(row, toRow, i + 1) * columns + on(column, toColumn, i + 1));
  }

  words(cell) {
    const [row, column] = this.placeOf(cell);
    return `row ${row}, column ${column}`;
  }

  // ---- the map

  /** @param fadesFrom - when it began to fade, null for at once */
  show(values, fadesFrom = null) {
    if (values === this.values) return;
    this.from = fadesFrom !== null && values && this.values ? this.values : null;
    this.began = fadesFrom;
    this.values = values;
  }

  /** @returns whether it has changed, and goes on to change */
  paint(look, now) {
    if (!this.values || (this.painted?.values === this.values && this.painted.look === look)) return [false, false];
    const share = this.from ? Math.min(1, (now - this.began) / FADE_MS) : 1;
    const { from, values } = this;
    const mixed = share < 1 ? values.map((value, i) => from[i] + (value - from[i]) * Math.max(0, share)) : values;
    const shown = look.smooth ? this.enlarger.enlarge(mixed) : mixed;
    const [rows, columns] = this.info.cells;
    const [width, height] = look.smooth ? [this.enlarger.width, this.enlarger.height] : [columns, rows];
    if (this.image?.width !== width || this.image.height !== height) {
      this.image = new ImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
      [this.mapCanvas.width, this.mapCanvas.height] = [width, height];
    }
    this.mapCanvas.classList.toggle("pixelated", !look.smooth);
    colour(shown, this.pixels, look);
    this.mapCanvas.getContext("2d").putImageData(this.image, 0, 0);
    if (share < 1) return [true, true];
    this.from = null;
    this.painted = { values, look };
    return [true, false];
  }

  // ---- marks

  /** @param marks - pinned: cells; drawn: cells; pointed: a cell; best: a cell; glow: whether the grid is seen */
  mark(marks) {
    const look = JSON.stringify(marks);
    if (this.marked === look || !this.width) return;
    this.marked = look;
    const context = this.marks.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.marks.width, this.marks.height);
    context.setTransform(this.ratio, 0, 0, this.ratio, MARGIN * this.ratio, MARGIN * this.ratio);
    if (marks.pointed !== null) this.glow(context, marks.pointed);
    if (marks.best !== null) this.encircle(context, marks.best);
    if (marks.pinned.length) stroke(context, this.outline(marks.pinned), 5, 2.5);
    if (marks.drawn.length) stroke(context, this.outline(marks.drawn), 4, 2);
    if (marks.pointed !== null) stroke(context, this.outline([marks.pointed]), 3, 1.25);
  }

  /** The grid's lines around a cell. */
  glow(context, cell) {
    const [rows, columns] = this.info.cells;
    const [x, y] = this.middleOf(cell);
    const [left, right] = [Math.max(0, x - GLOW), Math.min(this.width, x + GLOW)];
    const [top, bottom] = [Math.max(0, y - GLOW), Math.min(this.height, y + GLOW)];
    const lines = new Path2D();
    for (let column = 1; column < columns; column += 1) {
      const at = (column * this.width) / columns;
      if (at > left && at < right) lines.rect(at, top, 0, bottom - top);
    }
    for (let row = 1; row < rows; row += 1) {
      const at = (row * this.height) / rows;
      if (at > top && at < bottom) lines.rect(left, at, right - left, 0);
    }
    for (const [width, rgb, alpha] of [
      [1.5, "0 0 0", 0.25],
      [0.75, "255 255 255", 0.6],
    ]) {
      const light = context.createRadialGradient(x, y, 0, x, y, GLOW);
      light.addColorStop(0, `rgb(${rgb} / ${alpha})`);
      light.addColorStop(1, `rgb(${rgb} / 0)`);
      context.strokeStyle = light;
      context.lineWidth = width;
      context.stroke(lines);
    }
  }

  /** The border of cells that are taken together. */
  outline(cells) {
    const [rows, columns] = this.info.cells;
    const all = new Set(cells);
    const has = (row, column) => column >= 0 && column < columns && all.has(row * columns + column);
    const path = new Path2D();
    const line = (row, column, toRow, toColumn) => {
      path.moveTo((column * this.width) / columns, (row * this.height) / rows);
      path.lineTo((toColumn * this.width) / columns, (toRow * this.height) / rows);
    };
    for (const cell of cells) {
      const [row, column] = this.placeOf(cell);
      if (!has(row - 1, column)) line(row, column, row, column + 1);
      if (!has(row + 1, column)) line(row + 1, column, row + 1, column + 1);
      if (!has(row, column - 1)) line(row, column, row + 1, column);
      if (!has(row, column + 1)) line(row, column + 1, row + 1, column + 1);
    }
    return path;
  }

  encircle(context, cell) {
    const [rows, columns] = this.info.cells;
    const radius = Math.max(7, Math.min(this.width / columns, this.height / rows) / 2);
    const ring = new Path2D();
    ring.arc(...this.middleOf(cell), radius, 0, 2 * Math.PI);
    stroke(context, ring, 4, 2);
  }

  /** A number beside the ring of the best match. */
  placeChip(cell, text) {
    this.chip.hidden = cell === null;
    this.root.dataset.best = cell === null ? "" : this.placeOf(cell).join(",");
    if (cell === null) return;
    const [x, y] = this.middleOf(cell);
    const reach = Math.max(7, this.height / this.info.cells[0] / 2) + 5;
    const above = y - reach > 22;
    this.chip.textContent = text;
    this.chip.style.left = `${Math.max(26, Math.min(this.width - 26, x))}px`;
    this.chip.style.top = `${above ? y - reach - 20 : y + reach}px`;
  }
}

/** Light on dark: seen on any picture. */
function stroke(context, path, outer, inner) {
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = "#000";
  context.lineWidth = outer;
  context.stroke(path);
  context.strokeStyle = "#fff";
  context.lineWidth = inner;
  context.stroke(path);
}

/** Pixels of values; transparent what is no number. */
function colour(values, pixels, { colours, low, high }) {
  const top = LEVELS - 1;
  for (let i = 0; i < pixels.length; i += 1) {
    const value = values[i];
    if (value >= high) pixels[i] = value > low ? colours[top] : colours[0];
    else if (value > low) pixels[i] = colours[Math.floor((top * (value - low)) / (high - low) + 0.5)];
    else pixels[i] = value <= low ? colours[0] : 0;
  }
}

/** Colour table as one number per colour. */
function toColours(lut) {
  return Uint32Array.from({ length: LEVELS }, (_, i) => {
    const [red, green, blue] = lut.subarray(3 * i, 3 * i + 3);
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
}
