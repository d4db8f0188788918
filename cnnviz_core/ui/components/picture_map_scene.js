// What is in the map, and how it is painted pixel by pixel.

const WEAK = 0.16; // how much is left of what is not selected
const AUTO_SIDE = 30; // of a thumbnail in mode "auto" when all is in view
const ROOM = 1.12; // from one thumbnail to the next, in sides

class Scene {
  header = null; // what the server said last
  points = null; // Plane
  colouring = null;
  captions = null;
  seams = null;
  levels = null; // the thumbnails, once decoded
  view = null;
  theme = null;
  only = new Set(); // labels to which hover and selection are confined
  selected = new Uint8Array(0); // one flag per point
  journey = null; // from one projection to the next: where the points were, and the share of the way

  get num() {
    return this.header.num;
  }

  // ---- who stands out

  /** Call when the selection or the labels have changed. */
  emphasise() {
    this.numSelected = this.selected.reduce((sum, flag) => sum + flag, 0);
    // One flag per point: is it neither left out of the selection nor of the labels?
    this.strong = Uint8Array.from({ length: this.num }, (_, i) => {
      return Number((this.numSelected === 0 || this.selected[i] === 1) && this.eligible(i));
    });
    this.thinning = null;
  }

  /** Whether a point's label is among those asked for. */
  eligible(i) {
    return this.only.size === 0 || this.only.has(this.colouring.index[i]);
  }

  // ---- where and how large

  /** Where a point is, or what is placed into the map. */
  placeOf(index) {
    const { xy } = this.points;
    if (index < this.num) return this.view.toScreen(xy[2 * index], xy[2 * index + 1]);
    const { x, y } = this.header.extra[index - this.num];
    return this.view.toScreen(x, y);
  }

  /** Where all points are, those on their way included. */
  places() {
    const places = this.view.placesOf(this.points.xy);
    if (!this.journey) return places;
    const { from, share } = this.journey;
    const part = ease(share);
    return places.map((to, i) => from[i] + (to - from[i]) * part);
  }

  /** Side of a thumbnail; 0 where none are shown. */
  side() {
    const { mode, cell, thumb } = this.header;
    if (mode === "points" || !this.levels) return 0;
    const { plot, zoom, scale } = this.view;
    if (cell) return cell * scale[0];
    if (mode === "auto") return Math.min(AUTO_SIDE * zoom ** 0.4, Math.max(64, 1.25 * thumb));
    const crowded = Math.sqrt((1.2 * plot.width * plot.height) / this.num);
    return Math.min(Math.max(12, Math.min(44, crowded)) * zoom ** 0.7, Math.max(64, 1.5 * thumb));
  }

  /** Radius of a dot. */
  radius() {
    const few = 4.8 - 1.35 * (Math.log10(this.num) - 2.3);
    return Math.max(1.8, Math.min(5.5, few)) * Math.min(2, this.view.zoom ** 0.2);
  }

  /** One flag per point: is it a thumbnail? null: all are. */
  thumbnailed() {
    if (!this.side()) return new Uint8Array(this.num);
    if (this.header.mode !== "auto" || this.header.cell) return null;
    const { unit, zoom } = this.view;
    if (this.thinnedFor !== String(unit)) this.thinning = null;
    this.thinnedFor = String(unit);
    const { xy } = this.points;
    this.thinning ??= new Thinning(
      xy.filter((_, i) => i % 2 === 0).map((x) => x * unit[0]),
      xy.filter((_, i) => i % 2 === 1).map((y) => y * unit[1]),
      ROOM * AUTO_SIDE,
      this.strong,
    );
    return this.thinning.shown((ROOM * this.side()) / zoom);
  }

  isThumbnail(index) {
    if (index >= this.num) return false;
    const flags = this.thumbnailed();
    return !flags || flags[index] === 1;
  }

  /** Half of a point's width. */
  halfOf(index) {
    if (index >= this.num) return 9;
    return this.isThumbnail(index) ? this.side() / 2 : this.radius();
  }

  // ---- what is at a place

  /** The uppermost thumbnail, else the nearest dot within reach; null where there is neither. */
  hit([left, top], reach) {
    if (!this.view.holds([left, top])) return null;
    const near = this.header.extra.findIndex((_, k) => distance(this.placeOf(this.num + k), [left, top]) < 13);
    if (near >= 0) return this.num + near;
    const half = this.side() && this.side() / 2 + 0.01; // a little more: no gap between a grid's cells
    const flags = this.thumbnailed();
    const tile = this.search(left, top, half, (i) => {
      if ((flags && !flags[i]) || !this.eligible(i)) return Infinity;
      const [x, y] = this.placeOf(i);
      const inside = Math.abs(x - left) <= half && Math.abs(y - top) <= half;
      return inside ? this.num - i + (this.strong[i] ? 0 : this.num) : Infinity; // what is painted last lies on top
    });
    if (tile !== null || !flags) return tile;
    return this.search(left, top, reach, (i) => {
      if (flags[i] || !this.eligible(i)) return Infinity;
      const away = distance(this.placeOf(i), [left, top]);
      return away <= reach ? away : Infinity;
    });
  }

  search(left, top, reach, cost) {
    if (reach === 0) return null;
    const [x, y] = this.view.toData(left, top);
    const [perX, perY] = this.view.scale.map(Math.abs);
    return this.points.nearest(x, y, (reach + 1) / perX, (reach + 1) / perY, cost);
  }

  /** The point nearest to a place, or to another point in a direction; null where there is none. */
  neighbour(from, direction, other) {
    const places = this.places();
    let best = null;
    let least = Infinity;
    for (let i = 0; i < this.num; i += 1) {
      if (i === other || !this.eligible(i)) continue;
      const cost = stretch(places[2 * i] - from[0], places[2 * i + 1] - from[1], direction);
      if (cost < least) [least, best] = [cost, i];
    }
    return best;
  }

  // ---- painting

  /** Paints everything but the marks; `pixels` is as large as the canvas. */
  paint(context, ratio, pixels) {
    const { plot } = this.view;
    const ground = packed(this.theme.ground);
    const flags = this.thumbnailed();
    const places = this.places();
    pixels.clip(0, 0, pixels.width, pixels.height);
    pixels.clear(ground);
    pixels.clip(...[plot.left, plot.top, plot.right, plot.bottom].map((edge) => Math.round(edge * ratio)));
    if (flags) {
      this.paintDots(pixels, ratio, places, flags);
      if (this.side()) this.paintThumbnails(pixels, ratio, places, flags);
    } else {
      pixels.empty();
      this.paintThumbnails(pixels, ratio, places, null);
      pixels.fillRest(ground);
    }
    if (this.seams && !this.journey) this.paintSeams(pixels, ratio);
    context.putImageData(pixels.image, 0, 0);
  }

  paintDots(pixels, ratio, places, thumbnailed) {
    const dots = this.dotsFor(ratio);
    const index = this.colouring?.index;
    for (const pass of [0, 1]) {
      const set = pass ? dots.strong : dots.weak;
      for (let i = 0; i < this.num; i += 1) {
        if (this.strong[i] !== pass || thumbnailed[i]) continue;
        const colour = index ? index[i] : 0;
        set[colour] ??= dots.make(colour, pass ? 1 : WEAK);
        pixels.dot(set[colour], Math.round(places[2 * i] * ratio), Math.round(places[2 * i + 1] * ratio));
      }
    }
  }

  /** Dots by colour, made when first needed. */
  dotsFor(ratio) {
    const { colouring, theme } = this;
    const radius = Math.round(4 * this.radius() * ratio) / 4;
    const known = this.dots;
    if (known?.radius === radius && known.colouring === colouring && known.theme === theme) return known;
    const margin = radius > 2.4 * ratio ? 0.8 * ratio : 0.4 * ratio;
    const covers = [];
    const make = (colour, strength) => {
      const shape = colouring?.shapes[colour] ?? 0;
      covers[shape] ??= coverage(shape, radius, margin);
      return dotOf(covers[shape], this.colourOf(colour), theme.ground, strength);
    };
    this.dots = { radius, colouring, theme, make, strong: [], weak: [] };
    return this.dots;
  }

  /** Red, green and blue of a palette's row. */
  colourOf(row) {
    return this.colouring ? [...this.colouring.palette.subarray(3 * row, 3 * row + 3)] : this.theme.accent;
  }

  paintThumbnails(pixels, ratio, places, flags) {
    const { num, strong } = this;
    const { cell, columns } = this.header;
    const side = this.side() * ratio;
    const whole = Math.max(1, Math.round(side));
    const level = this.levels.findLast((candidate) => candidate.side >= side) ?? this.levels[0];
    const index = this.colouring?.index;
    const rim = index && side >= 9 * ratio ? Math.round(side >= 14 * ratio ? 2 * ratio : ratio) : 0;
    const ground = packed(this.theme.ground);
    const rims = [[], []];
    // Where thumbnails lie one over the other, the last one is on top, and the strong ones over the weak ones.
    for (const pass of [1, 0]) {
      const weight = pass ? 64 : Math.round(64 * WEAK);
      for (let i = num - 1; i >= 0; i -= 1) {
        if (strong[i] !== pass || (flags && !flags[i])) continue;
        let left = Math.round(places[2 * i] * ratio - side / 2);
        let top = Math.round(places[2 * i + 1] * ratio - side / 2);
        let [right, bottom] = [left + whole, top + whole];
        if (cell && !this.journey) [left, top, right, bottom] = this.cellAround(i, ratio);
        if (right + rim <= pixels.left || left - rim >= pixels.right) continue;
        if (bottom + rim <= pixels.top || top - rim >= pixels.bottom) continue;
        if (cell) [left, top, right, bottom] = [left + rim, top + rim, right - rim, bottom - rim];
        if (rim) {
          const colour = (rims[pass][index[i]] ??= this.rimColour(index[i], pass));
          pixels.rectangle(left - rim, top - rim, right + rim, top, colour);
          pixels.rectangle(left - rim, bottom, right + rim, bottom + rim, colour);
          pixels.rectangle(left - rim, top, left, bottom, colour);
          pixels.rectangle(right, top, right + rim, bottom, colour);
        }
        const [column, row] = [i % columns, Math.floor(i / columns)];
        pixels.tile(level, column * level.side, row * level.side, left, top, right, bottom, weight, ground);
      }
    }
  }

  /** Edges of a grid's cell, the same for the cells on both sides. */
  cellAround(i, ratio) {
    const half = this.header.cell / 2;
    const [x, y] = [this.points.xy[2 * i], this.points.xy[2 * i + 1]];
    const corners = [this.view.toScreen(x - half, y - half), this.view.toScreen(x + half, y + half)];
    return corners.flat().map((edge) => Math.round(edge * ratio - 1e-6));
  }

  rimColour(row, strong) {
    const { ground } = this.theme;
    const colour = this.colourOf(row).map((part, i) => (strong ? part : mix(part, ground[i], WEAK, 1 - WEAK)));
    return packed(colour.map(Math.round));
  }

  /** Where cells are small, the dark lines between those that are alike fade, so that they do not hide the pictures. */
  paintSeams(pixels, ratio) {
    const { shape, none, colours, right, down } = this.seams;
    const { cell } = this.header;
    const [rows, columns] = shape;
    const side = this.side();
    const wide = Math.max(1, Math.round(0.07 * side * ratio));
    const least = Math.max(0, Math.min(1, (side - 6) / 14));
    const weights = Array.from({ length: 256 }, (_, level) => Math.round(64 * Math.max(least, level / 254)));
    const paint = (level, ...box) => level !== none && pixels.shade(...box, colours[level], weights[level]);
    const round = (edge) => Math.round(edge * ratio - 1e-6);
    const edge = (column, row) => this.view.toScreen(column * cell, row * cell).map(round);
    const xs = Array.from({ length: columns + 1 }, (_, column) => edge(column, 0)[0]);
    const ys = Array.from({ length: rows + 1 }, (_, row) => edge(0, row)[1]);
    const before = wide >> 1;
    for (let row = 0; row < rows; row += 1) {
      if (ys[row + 1] + wide <= pixels.top || ys[row] >= pixels.bottom) continue;
      for (let column = 0; column < columns; column += 1) {
        if (xs[column + 1] + wide <= pixels.left || xs[column] >= pixels.right) continue;
        const across = column + 1 < columns ? right[row * (columns - 1) + column] : none;
        const along = row + 1 < rows ? down[row * columns + column] : none;
        const [x, y] = [xs[column + 1] - before, ys[row + 1] - before];
        paint(across, x, ys[row], x + wide, ys[row + 1]);
        paint(along, xs[column], y, xs[column + 1], y + wide);
      }
    }
  }
}

/** How far a step is; infinitely far where it leaves its direction by more than 45 degrees. */
function stretch(x, y, direction) {
  if (!direction) return Math.hypot(x, y);
  const along = x * direction[0] + y * direction[1];
  const across = Math.abs(x * direction[1]) + Math.abs(y * direction[0]);
  return along > 0 && across <= along ? along + 2 * across : Infinity;
}
