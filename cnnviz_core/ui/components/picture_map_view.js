// What a map shows of the plane and where: data to CSS px of the stage and back.

const PAD = 18; // between the outermost points and the frame
const CELL_PAD = 2; // likewise for a grid, whose cells end by themselves

class View {
  /**
   * @param header - what the server says
   * @param points - the Plane of all points
   * @param size - width and height of the stage
   */
  constructor(header, points, [width, height]) {
    const left = header.axes ? (header.ticks ? 62 : 26) : 1;
    const below = header.axes ? (header.ticks ? 44 : 26) : 1;
    this.size = [width, height];
    this.plot = boxOf(left, 1, width - 1, height - below);
    const places = header.extra.flatMap(({ x, y }) => [x, y]);
    const [l, b, r, t] = bounds([points.left, points.bottom, points.right, points.top, ...places]);
    const cell = header.cell ?? 0;
    const perUnit = (room, extent) => Math.max(1, room - 2 * (cell ? CELL_PAD : PAD)) / (extent || 1);
    let unit = [perUnit(this.plot.width, r - l + cell), perUnit(this.plot.height, t - b + cell)];
    if (header.equal) unit = unit.fill(Math.min(...unit));
    const spacing = cell ? cell * unit[0] : Math.sqrt((this.plot.width * this.plot.height) / header.num);
    this.half = [Math.max(0.5, ((r - l + cell) * unit[0]) / 2), Math.max(0.5, ((t - b + cell) * unit[1]) / 2)];
    this.unit = [unit[0], cell ? unit[1] : -unit[1]]; // px per unit at zoom 1; y of a grid points downwards
    this.furthest = Math.max(8, Math.min(400, (cell ? 320 : 1200) / spacing));
    this.home = { x: (l + r) / 2, y: (b + t) / 2, zoom: 1 };
    this.centre = this.home; // what lies in the middle, and how much it is enlarged
  }

  get zoom() {
    return this.centre.zoom;
  }

  /** CSS px per unit, now. */
  get scale() {
    return this.unit.map((unit) => unit * this.zoom);
  }

  toScreen(x, y) {
    const [perX, perY] = this.scale;
    const [midX, midY] = this.plot.middle;
    return [midX + (x - this.centre.x) * perX, midY + (y - this.centre.y) * perY];
  }

  toData(left, top) {
    const [perX, perY] = this.scale;
    const [midX, midY] = this.plot.middle;
    return [this.centre.x + (left - midX) / perX, this.centre.y + (top - midY) / perY];
  }

  /** Places of x and y in turn. */
  placesOf(xy) {
    const [x0, y0] = this.toScreen(0, 0);
    const [perX, perY] = this.scale;
    const places = new Float32Array(xy.length);
    for (let i = 0; i < xy.length; i += 2) {
      places[i] = x0 + xy[i] * perX;
      places[i + 1] = y0 + xy[i + 1] * perY;
    }
    return places;
  }

  holds([x, y], margin = 0) {
    const { left, top, right, bottom } = this.plot;
    return x >= left + margin && x <= right - margin && y >= top + margin && y <= bottom - margin;
  }

  /** A centre kept where there is something to see. */
  within({ x, y, zoom }) {
    const { home, half, unit, plot } = this;
    const kept = this.clamped(zoom);
    const bound = (value, middle, reach, perUnit, room) => {
      const slack = (reach * (1 - 1 / kept) + (0.3 * room) / kept) / Math.abs(perUnit);
      return Math.max(middle - slack, Math.min(middle + slack, value));
    };
    return {
      x: bound(x, home.x, half[0], unit[0], plot.width / 2),
      y: bound(y, home.y, half[1], unit[1], plot.height / 2),
      zoom: kept,
    };
  }

  clamped(zoom) {
    return Math.max(1, Math.min(this.furthest, zoom));
  }

  /** The centre at another zoom with which what is at one place of the screen comes to lie at another. */
  zoomed(from, to, zoom) {
    const [x, y] = this.toData(...from);
    const { plot, unit } = this;
    const now = this.clamped(zoom);
    return {
      x: x - (to[0] - plot.middle[0]) / (unit[0] * now),
      y: y - (to[1] - plot.middle[1]) / (unit[1] * now),
      zoom: now,
    };
  }
}

function boxOf(left, top, right, bottom) {
  const middle = [(left + right) / 2, (top + bottom) / 2];
  return { left, top, right, bottom, middle, width: right - left, height: bottom - top };
}

/** Between two centres; straight for the eye, because the way goes along with what the zoom makes of it. */
function between(from, to, share) {
  const zoom = from.zoom ** (1 - share) * to.zoom ** share;
  const even = Math.abs(from.zoom / to.zoom - 1) < 1e-6;
  const part = even ? share : (1 / from.zoom - 1 / zoom) / (1 / from.zoom - 1 / to.zoom);
  return { x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part, zoom };
}

function distance([x, y], [u, v]) {
  return Math.hypot(x - u, y - v);
}

function ease(share) {
  return 1 - (1 - share) ** 3;
}
