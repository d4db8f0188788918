const REACH = 16; // CSS px around the pointer in which a dot is found
const CLICK = 4; // a press that moves less is a click
const PAD = 18; // between the outermost points and the frame
const WEAK = 0.16; // how much is left of what is not selected
const AUTO_SIDE = 30; // of a thumbnail in mode "auto" when all is in view
const GLIDE_MS = 260;
const MOVE_MS = 700; // from one projection to the next
const LINGER_MS = 90; // the card stays that long between two points
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const HINTS = {
  move: "Drag to move, scroll to zoom, click to pick.",
  lasso: "Draw around pictures. Shift adds to the selection.",
  box: "Drag a rectangle around pictures. Shift adds to the selection.",
};
const TOOLS = { v: "move", l: "lasso", b: "box" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const maps = new WeakMap();
const kept = new Map(); // view, tool and labels as the person left them, by key: they outlive a change of page

/** What to make of each part that the server sends, by its name in the header. */
const PREPARE = {
  points: (bytes) => new Plane(floats(bytes)),
  captions: (bytes) => JSON.parse(new TextDecoder().decode(bytes)),
  colouring: toColouring,
  seams: toSeams,
};

class PictureMap {
  constructor(mount) {
    const find = (selector) => mount.querySelector(selector);
    this.root = find(".picture-map");
    this.stage = find(".stage");
    this.base = find(".base");
    this.over = find(".over");
    this.tools = [...mount.querySelectorAll("[data-tool]")];
    this.buttons = { minus: find(".minus"), plus: find(".plus"), reset: find(".reset"), save: find(".save") };
    this.legend = find(".legend");
    this.legendTitle = find(".legend > .title");
    this.labels = find(".labels");
    this.scale = find(".scale");
    this.mark = find(".mark");
    this.seamScale = find(".seams");
    this.count = find(".count");
    this.clear = find(".clear");
    this.take = find(".take");
    this.hint = find(".hint");
    this.card = find(".card");
    this.cardPicture = find(".card canvas");
    this.cardName = find(".name");
    this.cardMore = find(".more");
    this.live = find(".live");
    this.header = null; // what is on screen
    this.tokens = {};
    this.held = {};
    this.levels = null; // the thumbnails, once decoded
    this.extras = new Map(); // pictures of what is placed into the map, by token
    this.tool = "move";
    this.only = new Set(); // labels to which hover and selection are confined
    this.selected = new Uint8Array(0);
    this.numSelected = 0;
    this.lit = [];
    this.pointed = null; // a point, or num + k for what is placed into the map
    this.pointers = new Map(); // fingers and buttons that are down
    this.drag = null;
    this.pending = { click: 0, lasso: 0 }; // stamps of what was told last
    this.scrolledElsewhere = 0;
    this.counts = { paints: 0, overlays: 0, decodes: 0 };
    this.listen();
    this.setTool("move");
  }

  listen() {
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const on = (target, name, action, more = {}) => target.addEventListener(name, action, { signal, ...more });
    on(this.stage, "pointerdown", (event) => this.pressed(event));
    on(this.stage, "pointermove", (event) => this.moved(event));
    on(this.stage, "pointerup", (event) => this.released(event));
    on(this.stage, "pointercancel", (event) => this.released(event, false));
    on(this.stage, "pointerleave", (event) => event.pointerType !== "touch" && !this.byKey && this.point(null));
    on(this.stage, "dblclick", () => this.tool === "move" && this.pointed === null && this.reset());
    on(this.stage, "wheel", (event) => this.wheeled(event), { passive: false });
    on(window, "wheel", (event) => this.wheeledElsewhere(event), { passive: true, capture: true });
    on(this.stage, "keydown", (event) => this.keyPressed(event));
    on(this.stage, "blur", () => this.point(null));
    on(document, "scroll", () => this.placeCard(), { capture: true, passive: true });
    this.tools.forEach((button) => on(button, "click", () => this.setTool(button.dataset.tool)));
    on(this.buttons.minus, "click", () => this.zoomBy(1 / 1.6));
    on(this.buttons.plus, "click", () => this.zoomBy(1.6));
    on(this.buttons.reset, "click", () => this.reset());
    on(this.buttons.save, "click", () => this.save());
    on(this.clear, "click", () => this.choose(new Uint8Array(this.header.num)));
    on(this.take, "click", () => this.takeAll());
    on(this.root, "transitionend", (event) => event.target === this.root && this.layOut());
    this.resizes = new ResizeObserver(() => this.layOut());
    this.resizes.observe(this.stage);
    onPixelRatio(() => this.layOut(), signal);
  }

  close() {
    this.listeners.abort();
    this.resizes.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.lingering);
    this.extras.forEach((bitmap) => bitmap?.close());
    this.header = this.wanted = null;
  }

  // ---- what the server says

  update({ header, bytes }, report) {
    this.report = report;
    this.wanted = header;
    header.flags = bytes;
    this.root.style.setProperty("--height", `${header.height}px`);
    this.load(header, performance.now());
  }

  /** Points, colours and texts change together, or the old ones stay; thumbnails follow. */
  async load(header, start) {
    const held = {};
    try {
      for (const [name, prepare] of Object.entries(PREPARE)) {
        const token = header[name];
        const known = token === this.tokens[name];
        held[name] = known ? this.held[name] : token && prepare(await parts.get(token));
      }
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    if (this.wanted !== header) return;
    this.accept(header, held);
    this.loadAtlas(header, start);
    header.extra.filter(({ picture }) => picture).forEach((extra) => this.loadExtra(extra));
  }

  async loadAtlas(header, start) {
    const { atlas } = header;
    if (atlas && atlas !== this.tokens.atlas) {
      this.tokens.atlas = atlas;
      let levels;
      try {
        const bitmap = await decode(await parts.get(atlas), header.atlasType);
        levels = pyramid(bitmap, header.thumb);
        bitmap.close();
      } catch (error) {
        if (this.wanted === header) this.fail();
        return;
      }
      this.counts.decodes += 1;
      if (this.wanted?.atlas !== atlas) return;
      this.levels = levels;
      this.paint();
    }
    if (!this.header || (this.header.atlas && !this.levels)) return;
    this.root.dataset.ms = (performance.now() - start).toFixed(1);
    this.root.dataset.ready = [...Object.values(this.tokens)].filter(Boolean).join(" ");
  }

  async loadExtra({ picture, type }) {
    if (this.extras.has(picture)) return;
    this.extras.set(picture, null);
    try {
      this.extras.set(picture, await decode(await parts.get(picture), type));
    } catch (error) {
      return; // its star and name are there
    }
    this.drawOver();
  }

  fail() {
    this.root.dataset.error = "decode";
    this.live.textContent = this.hint.textContent = "The pictures could not be decoded.";
  }

  accept(header, held) {
    const before = this.header;
    const changed = (name) => header[name] !== this.tokens[name];
    const [newPoints, newColours, newSeams] = ["points", "colouring", "seams"].map(changed);
    const follow = newPoints && before?.num === header.num && !changed("captions") && !STILL.matches;
    const from = follow ? this.places() : null;
    this.header = header;
    this.held = held;
    for (const name of Object.keys(PREPARE)) this.tokens[name] = header[name];
    if (header.atlas !== this.tokens.atlas) this.tokens.atlas = this.levels = null;
    this.stage.setAttribute("aria-label", header.aria);
    if (newColours) this.newColouring();
    if (newPoints) this.newPoints(before, from);
    if (newPoints || newColours || newSeams) this.look = null; // to be painted in any case
    if (this.pointed >= header.num + header.extra.length) this.point(null);
    this.acceptChoices(header, before);
    this.buildScales();
    this.layOut();
    const first = this.lit[0];
    const moved = before && first !== undefined && first !== this.lastLit;
    this.lastLit = first;
    if (moved && this.geometry) this.bringIntoView(first);
  }

  newPoints(before, from) {
    const last = before ? null : kept.get(this.header.key);
    const same = last?.points === this.tokens.points;
    this.view = same ? last.view : null;
    if (last) this.setTool(last.tool);
    this.thinning = null;
    this.glide = null;
    this.journey = from && { from, start: null };
    if (before && before.num !== this.header.num) this.pointed = null;
  }

  newColouring() {
    const last = this.labels.childElementCount ? null : kept.get(this.header.key);
    this.only = new Set(last?.colouring === this.tokens.colouring ? last.only : []);
    this.dots = null;
    this.buildLabels();
  }

  /** What the server marks, unless the person has said something newer that it has not answered yet. */
  acceptChoices({ answers, flags, lit, num }, before) {
    if (answers[0] >= this.pending.click) this.lit = lit;
    if (answers[1] >= this.pending.lasso || before?.num !== num) {
      const chosen = Uint8Array.from({ length: num }, (_, i) => (flags[i >> 3] >> (i & 7)) & 1);
      if (before?.num !== num || chosen.some((flag, i) => flag !== this.selected[i])) this.look = null;
      this.setSelected(chosen);
    }
  }

  // ---- geometry, in CSS px of the stage

  layOut() {
    const { header, held, stage } = this;
    if (!header || stage.clientWidth === 0) return; // in a hidden tab; the observer calls again
    this.readTheme();
    const ratio = devicePixelRatio || 1;
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    const left = header.axes ? (header.ticks ? 62 : 26) : 1;
    const below = header.axes ? (header.ticks ? 44 : 26) : 1;
    const plot = { left, top: 1, right: width - 1, bottom: height - below };
    plot.middle = [(plot.left + plot.right) / 2, (plot.top + plot.bottom) / 2];
    plot.width = plot.right - plot.left;
    plot.height = plot.bottom - plot.top;

    const places = header.extra.flatMap(({ x, y }) => [x, y]);
    const { left: x0, bottom: y0, right: x1, top: y1 } = held.points;
    const [l, b, r, t] = bounds([x0, y0, x1, y1, ...places]);
    const rim = header.cell ? header.cell : 0;
    const pad = header.cell ? 2 : PAD;
    const perUnit = (room, extent) => Math.max(1, room - 2 * pad) / (extent || 1);
    let unit = [perUnit(plot.width, r - l + rim), perUnit(plot.height, t - b + rim)];
    if (header.equal) unit = unit.fill(Math.min(...unit));
    const spacing = header.cell ? header.cell * unit[0] : Math.sqrt((plot.width * plot.height) / header.num);
    const geometry = {
      ratio,
      width,
      height,
      plot,
      unit: [unit[0], header.cell ? unit[1] : -unit[1]],
      home: { x: (l + r) / 2, y: (b + t) / 2, zoom: 1 },
      half: [Math.max(0.5, ((r - l + rim) * unit[0]) / 2), Math.max(0.5, ((t - b + rim) * unit[1]) / 2)],
      furthest: Math.max(8, Math.min(400, (header.cell ? 320 : 1200) / spacing)),
    };
    const look = JSON.stringify([geometry, this.theme, header.mode, header.axes, header.ticks]);
    this.showStatus();
    if (this.journey) this.request();
    if (look === this.look) return this.drawOver();
    this.look = look;
    this.geometry = geometry;
    this.view = this.within(this.view ?? geometry.home);
    this.thinning = null;
    this.dots = null;
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    this.paint();
  }

  readTheme() {
    const style = getComputedStyle(this.root);
    const [font, accent] = ["--st-font", "--st-primary-color"].map((name) => style.getPropertyValue(name).trim());
    this.theme = { ground: style.backgroundColor, ink: style.color, accent: accent || style.color, font };
    const parts = [this.theme.ground, this.theme.ink].map(rgbOf);
    this.ground = parts[0];
    this.theme.quiet = `rgb(${parts[0].map((part, i) => Math.round(0.3 * part + 0.7 * parts[1][i])).join(" ")})`;
    this.theme.line = `rgb(${parts[0].map((part, i) => Math.round(0.8 * part + 0.2 * parts[1][i])).join(" ")})`;
  }

  /** The view, kept where there is something to see. */
  within({ x, y, zoom }) {
    const { home, half, unit, plot, furthest } = this.geometry;
    const kept = Math.max(1, Math.min(furthest, zoom));
    const bound = (value, middle, reach, perUnit, room) => {
      const slack = (Math.max(0, reach * (1 - 1 / kept)) + (0.3 * room) / kept) / Math.abs(perUnit);
      return Math.max(middle - slack, Math.min(middle + slack, value));
    };
    return {
      x: bound(x, home.x, half[0], unit[0], plot.width / 2),
      y: bound(y, home.y, half[1], unit[1], plot.height / 2),
      zoom: kept,
    };
  }

  toScreen(x, y) {
    const { plot, unit } = this.geometry;
    const { x: midX, y: midY, zoom } = this.view;
    return [plot.middle[0] + (x - midX) * unit[0] * zoom, plot.middle[1] + (y - midY) * unit[1] * zoom];
  }

  toData(left, top) {
    const { plot, unit } = this.geometry;
    const { x, y, zoom } = this.view;
    return [x + (left - plot.middle[0]) / (unit[0] * zoom), y + (top - plot.middle[1]) / (unit[1] * zoom)];
  }

  /** Where a point is, or what is placed into the map. */
  placeOf(index) {
    const { num, extra } = this.header;
    const { xy } = this.held.points;
    if (index < num) return this.toScreen(xy[2 * index], xy[2 * index + 1]);
    return this.toScreen(extra[index - num].x, extra[index - num].y);
  }

  /** Where all points are, on their way while one projection turns into another. */
  places() {
    const { xy, num } = this.held.points;
    const [x0, y0] = this.toScreen(0, 0);
    const [perX, perY] = this.geometry.unit.map((unit) => unit * this.view.zoom);
    const places = new Float32Array(2 * num);
    const share = this.journey ? ease(this.journey.share ?? 0) : 1;
    for (let i = 0; i < 2 * num; i += 2) {
      places[i] = x0 + xy[i] * perX;
      places[i + 1] = y0 + xy[i + 1] * perY;
    }
    if (share < 1) this.journey.from.forEach((from, i) => (places[i] = from + (places[i] - from) * share));
    return places;
  }

  inView([x, y], margin = 0) {
    const { left, top, right, bottom } = this.geometry.plot;
    return x >= left + margin && x <= right - margin && y >= top + margin && y <= bottom - margin;
  }

  /** Side of a thumbnail; 0 where none are shown. */
  side() {
    const { mode, cell, num, thumb } = this.header;
    if (mode === "points" || !this.levels) return 0;
    const { unit, plot } = this.geometry;
    const { zoom } = this.view;
    if (cell) return cell * unit[0] * zoom;
    if (mode === "auto") return Math.min(AUTO_SIDE * zoom ** 0.4, Math.max(64, 1.25 * thumb));
    const crowded = Math.sqrt((1.2 * plot.width * plot.height) / num);
    return Math.min(Math.max(12, Math.min(44, crowded)) * zoom ** 0.7, Math.max(64, 1.5 * thumb));
  }

  /** One flag per point: is it a thumbnail? null: all are. */
  thumbnailed() {
    if (!this.side()) return new Uint8Array(this.header.num);
    if (this.header.mode !== "auto" || this.header.cell) return null;
    const { unit } = this.geometry;
    const { xy } = this.held.points;
    this.thinning ??= new Thinning(
      xy.filter((_, i) => i % 2 === 0).map((x) => x * unit[0]),
      xy.filter((_, i) => i % 2 === 1).map((y) => y * unit[1]),
      1.12 * AUTO_SIDE,
    );
    return this.thinning.shown((1.12 * this.side()) / this.view.zoom);
  }

  /** Radius of a dot. */
  radius() {
    const few = 4.8 - 1.35 * (Math.log10(this.header.num) - 2.3);
    return Math.max(1.8, Math.min(5.5, few)) * Math.min(2, this.view.zoom ** 0.2);
  }

  // ---- painting

  request() {
    this.frame ??= requestAnimationFrame((now) => {
      this.frame = undefined;
      this.advance(now);
      this.paint();
    });
  }

  /** One step of what moves by itself. */
  advance(now) {
    const { glide, journey } = this;
    if (glide) {
      glide.start ??= now;
      const share = Math.min(1, (now - glide.start) / GLIDE_MS);
      const t = ease(share);
      const zoom = glide.from.zoom ** (1 - t) * glide.to.zoom ** t;
      // The centre keeps pace with what the zoom makes of it, so that the target is approached straight.
      const { from, to } = glide;
      const part = from.zoom === to.zoom ? t : (1 / from.zoom - 1 / zoom) / (1 / from.zoom - 1 / to.zoom);
      this.view = { x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part, zoom };
      if (share >= 1) this.glide = null;
    }
    if (journey) {
      journey.start ??= now;
      journey.share = Math.min(1, (now - journey.start) / MOVE_MS);
      if (journey.share >= 1) this.journey = null;
    }
    if (this.glide || this.journey) this.request();
  }

  paint() {
    if (!this.geometry || !this.header) return;
    const { ratio } = this.geometry;
    const [width, height] = [this.base.width, this.base.height];
    if (this.buffer?.width !== width || this.buffer?.height !== height) this.buffer = new Pixels(width, height);
    this.paintOn(this.base.getContext("2d"), ratio, this.buffer);
    this.drawOver();
    this.remember();
    const { plot, unit } = this.geometry;
    const { x, y, zoom } = this.view;
    // For tests: the middle of the frame, CSS px per unit, and what is in the middle.
    this.root.dataset.view = [...plot.middle, unit[0] * zoom, unit[1] * zoom, x, y].join(" ");
    this.root.dataset.zoom = zoom.toFixed(3);
    this.root.dataset.paints = this.counts.paints += 1;
    this.root.dataset.decodes = this.counts.decodes;
    this.stage.classList.toggle("whole", zoom < 1.001);
    this.buttons.minus.disabled = zoom <= 1;
  }

  paintOn(context, ratio, pixels) {
    const { plot } = this.geometry;
    const edges = [plot.left, plot.top, plot.right, plot.bottom].map((edge) => Math.round(edge * ratio));
    const places = this.places();
    const flags = this.thumbnailed();
    const strong = this.strong();
    pixels.clip(0, 0, pixels.width, pixels.height);
    const ground = packed(this.ground);
    pixels.clear(ground);
    pixels.clip(...edges);
    if (flags) {
      this.paintDots(pixels, ratio, places, flags, strong);
      if (this.side()) this.paintThumbnails(pixels, ratio, places, flags, strong);
    } else {
      pixels.empty();
      this.paintThumbnails(pixels, ratio, places, flags, strong);
      pixels.fillRest(ground);
    }
    if (this.held.seams) this.paintSeams(pixels, ratio);
    context.putImageData(pixels.image, 0, 0);
    this.drawFrame(context, ratio);
  }

  /** One flag per point: is it neither left out of the selection nor of the labels? */
  strong() {
    const { num } = this.header;
    const strong = new Uint8Array(num).fill(1);
    const some = this.numSelected > 0;
    if (some) strong.set(this.selected);
    if (this.only.size) for (let i = 0; i < num; i += 1) if (!this.eligible(i)) strong[i] = 0;
    return strong;
  }

  /** Whether a point's label is among those asked for. */
  eligible(i) {
    return this.only.size === 0 || this.only.has(this.held.colouring.index[i]);
  }

  paintDots(pixels, ratio, places, thumbnailed, strong) {
    const dots = this.dotsFor(ratio);
    const index = this.held.colouring?.index;
    for (const pass of [0, 1]) {
      const set = pass ? dots.strong : dots.weak;
      for (let i = 0; i < strong.length; i += 1) {
        if (strong[i] !== pass || thumbnailed[i]) continue;
        const colour = index ? index[i] : 0;
        set[colour] ??= dots.make(colour, pass ? 1 : WEAK);
        pixels.dot(set[colour], Math.round(places[2 * i] * ratio), Math.round(places[2 * i + 1] * ratio));
      }
    }
  }

  dotsFor(ratio) {
    const radius = Math.round(4 * this.radius() * ratio) / 4;
    const key = `${radius} ${ratio}`;
    if (this.dots?.key === key) return this.dots;
    const { colouring } = this.held;
    const margin = radius > 2.4 * ratio ? 0.8 * ratio : 0.4 * ratio;
    const covers = [];
    const make = (colour, strength) => {
      const shape = colouring?.shapes[colour] ?? 0;
      covers[shape] ??= coverage(shape, radius, margin);
      return dotOf(covers[shape], this.colourOf(colour), this.ground, strength);
    };
    this.dots = { key, make, strong: [], weak: [] };
    return this.dots;
  }

  /** Red, green and blue of a palette's row. */
  colourOf(row) {
    const { colouring } = this.held;
    return colouring ? [...colouring.palette.subarray(3 * row, 3 * row + 3)] : rgbOf(this.theme.accent);
  }

  paintThumbnails(pixels, ratio, places, flags, strong) {
    const { cell, columns } = this.header;
    const side = this.side() * ratio;
    const whole = Math.max(1, Math.round(side));
    const level = this.levels.findLast((candidate) => candidate.side >= side) ?? this.levels[0];
    const index = this.held.colouring?.index;
    const wide = side >= 14 * ratio ? 2 * ratio : ratio;
    const rim = index && side >= 9 * ratio ? Math.max(1, Math.round(wide)) : 0;
    const ground = packed(this.ground);
    const rims = [[], []];
    const rimOf = (row, pass) => {
      const mixed = this.colourOf(row).map((part, i) => (pass ? part : mix(part, this.ground[i], WEAK, 1 - WEAK)));
      return packed(mixed.map(Math.round));
    };
    // Where thumbnails lie one over the other, the last one is on top, and the strong ones over the weak ones.
    for (const pass of [1, 0]) {
      const weight = pass ? 64 : Math.round(64 * WEAK);
      for (let i = strong.length - 1; i >= 0; i -= 1) {
        if (strong[i] !== pass || (flags && !flags[i])) continue;
        const [x, y] = [places[2 * i] * ratio, places[2 * i + 1] * ratio];
        let left = Math.round(x - side / 2);
        let top = Math.round(y - side / 2);
        let right = cell ? Math.round(x + side / 2) : left + whole;
        let bottom = cell ? Math.round(y + side / 2) : top + whole;
        if (right + rim <= pixels.left || left - rim >= pixels.right) continue;
        if (bottom + rim <= pixels.top || top - rim >= pixels.bottom) continue;
        if (cell) [left, top, right, bottom] = [left + rim, top + rim, right - rim, bottom - rim];
        const [column, row] = [i % columns, Math.floor(i / columns)];
        if (rim) {
          const colour = (rims[pass][index[i]] ??= rimOf(index[i], pass));
          pixels.rectangle(left - rim, top - rim, right + rim, top, colour);
          pixels.rectangle(left - rim, bottom, right + rim, bottom + rim, colour);
          pixels.rectangle(left - rim, top, left, bottom, colour);
          pixels.rectangle(right, top, right + rim, bottom, colour);
        }
        pixels.tile(level, column * level.side, row * level.side, left, top, right, bottom, weight, ground);
      }
    }
  }

  paintSeams(pixels, ratio) {
    const { shape, none, colours, right, down } = this.held.seams;
    const { cell } = this.header;
    const [rows, columns] = shape;
    const wide = Math.max(1, Math.round(0.07 * cell * this.geometry.unit[0] * this.view.zoom * ratio));
    const edge = (column, row) => this.toScreen(column * cell, row * cell).map((at) => Math.round(at * ratio));
    const xs = Array.from({ length: columns + 1 }, (_, column) => edge(column, 0)[0]);
    const ys = Array.from({ length: rows + 1 }, (_, row) => edge(0, row)[1]);
    const before = wide >> 1;
    const seen = (low, high, from, to) => high > from && low < to;
    for (let row = 0; row < rows; row += 1) {
      if (!seen(ys[row], ys[row + 1] + wide, pixels.top, pixels.bottom)) continue;
      for (let column = 0; column < columns; column += 1) {
        if (!seen(xs[column], xs[column + 1] + wide, pixels.left, pixels.right)) continue;
        const across = column + 1 < columns ? right[row * (columns - 1) + column] : none;
        const along = row + 1 < rows ? down[row * columns + column] : none;
        const [x, y] = [xs[column + 1] - before, ys[row + 1] - before];
        if (across !== none) pixels.rectangle(x, ys[row], x + wide, ys[row + 1], colours[across]);
        if (along !== none) pixels.rectangle(xs[column], y, xs[column + 1], y + wide, colours[along]);
      }
    }
  }

  /** A light frame, and what the axes are. */
  drawFrame(context, ratio) {
    const { plot } = this.geometry;
    const { axes, ticks } = this.header;
    context.save();
    context.scale(ratio, ratio);
    context.lineWidth = 1;
    context.strokeStyle = this.theme.line;
    context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
    context.fillStyle = this.theme.quiet;
    if (ticks) this.drawTicks(context);
    if (axes) {
      context.font = `13px ${this.theme.font || "sans-serif"}`;
      context.textAlign = "center";
      context.textBaseline = "alphabetic";
      context.fillText(shorten(context, axes[0], plot.width), plot.middle[0], this.geometry.height - 6);
      context.translate(13, plot.middle[1]);
      context.rotate(-Math.PI / 2);
      context.fillText(shorten(context, axes[1], plot.height), 0, 0);
    }
    context.restore();
    if (axes && document.fonts.status === "loading") document.fonts.ready.then(() => this.request());
  }

  drawTicks(context) {
    const { plot, unit } = this.geometry;
    const { zoom } = this.view;
    const lowest = this.toData(plot.left, plot.bottom);
    const highest = this.toData(plot.right, plot.top);
    context.font = `12px ${this.theme.font || "sans-serif"}`;
    for (const axis of [0, 1]) {
      const step = niceStep((axis ? 60 : 90) / (Math.abs(unit[axis]) * zoom));
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      const [low, high] = [lowest[axis], highest[axis]].sort((a, b) => a - b);
      for (let at = Math.ceil(low / step); at * step <= high; at += 1) {
        const text = (at * step).toFixed(digits).replace("-", "−");
        const [x, y] = this.toScreen(axis ? 0 : at * step, axis ? at * step : 0);
        context.textAlign = axis ? "right" : "center";
        context.textBaseline = axis ? "middle" : "top";
        if (axis) context.fillText(text, plot.left - 8, y);
        else context.fillText(text, x, plot.bottom + 7);
        context.beginPath();
        context.moveTo(axis ? plot.left - 4 : Math.round(x) + 0.5, axis ? Math.round(y) + 0.5 : plot.bottom);
        context.lineTo(axis ? plot.left : Math.round(x) + 0.5, axis ? Math.round(y) + 0.5 : plot.bottom + 4);
        context.stroke();
      }
    }
  }

  // ---- marks over the picture

  drawOver() {
    if (!this.geometry || !this.header) return;
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.over.width, this.over.height);
    this.drawMarks(context, this.geometry.ratio, true);
    this.placeCard();
    this.root.dataset.overlays = this.counts.overlays += 1;
  }

  drawMarks(context, ratio, moment) {
    const { plot } = this.geometry;
    const { num, extra } = this.header;
    context.save();
    context.scale(ratio, ratio);
    context.beginPath();
    context.rect(plot.left, plot.top, plot.width, plot.height);
    context.clip();
    if (!this.journey) {
      extra.forEach((about, k) => this.drawExtra(context, about, this.placeOf(num + k)));
      this.lit.forEach((index) => this.drawLit(context, index));
      const plain = moment && this.pointed !== null && this.pointed < num && !this.lit.includes(this.pointed);
      if (plain) this.ring(context, this.pointed, 2, 2, this.theme.ink);
    }
    if (moment && this.drag?.line) this.drawLine(context);
    context.restore();
  }

  /** An outline around a point or its thumbnail, with a margin in the ground's colour on both sides. */
  ring(context, index, gap, width, colour) {
    const [x, y] = this.placeOf(index);
    const half = this.halfOf(index) + gap + width / 2;
    context.beginPath();
    if (this.isThumbnail(index)) context.rect(x - half, y - half, 2 * half, 2 * half);
    else context.arc(x, y, half, 0, 2 * Math.PI);
    context.lineWidth = width + 2.5;
    context.strokeStyle = this.theme.ground;
    context.stroke();
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }

  isThumbnail(index) {
    if (index >= this.header.num) return false;
    const flags = this.thumbnailed();
    return !flags || flags[index] === 1;
  }

  halfOf(index) {
    if (index >= this.header.num) return 9;
    return this.isThumbnail(index) ? this.side() / 2 : this.radius();
  }

  drawLit(context, index) {
    const place = this.placeOf(index);
    const name = this.nameOf(index);
    if (!this.inView(place)) return this.drawArrow(context, place, name);
    this.ring(context, index, 3, 3, this.theme.accent);
    const half = this.halfOf(index) + 10;
    this.pill(context, name, place[0], place[1] + half + 10, place[1] - half - 10);
  }

  /** Points from the frame to what lies beyond it. */
  drawArrow(context, [x, y], name) {
    const { plot } = this.geometry;
    const [midX, midY] = plot.middle;
    const angle = Math.atan2(y - midY, x - midX);
    const inset = 12;
    const reach = Math.min(
      (plot.width / 2 - inset) / Math.abs(Math.cos(angle) || 1e-9),
      (plot.height / 2 - inset) / Math.abs(Math.sin(angle) || 1e-9),
    );
    const tip = [midX + reach * Math.cos(angle), midY + reach * Math.sin(angle)];
    context.save();
    context.translate(...tip);
    context.rotate(angle);
    context.beginPath();
    polygon(context, [8, 0, -6, -8, -6, 8], 1);
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = this.theme.ground;
    context.stroke();
    context.fillStyle = this.theme.accent;
    context.fill();
    context.restore();
    const back = 26;
    this.pill(context, name, tip[0] - back * Math.cos(angle), tip[1] - back * Math.sin(angle));
  }

  drawExtra(context, { name, picture }, place) {
    if (!this.inView(place)) return this.drawArrow(context, place, name);
    const [x, y] = place;
    const bitmap = this.extras.get(picture);
    const side = 52;
    const above = y - side - 22 >= this.geometry.plot.top;
    if (bitmap) {
      const [left, top] = [x - side / 2, above ? y - side - 16 : y + 16];
      context.fillStyle = this.theme.ground;
      context.fillRect(left - 4, top - 4, side + 8, side + 8);
      context.fillStyle = this.theme.accent;
      context.fillRect(left - 2.5, top - 2.5, side + 5, side + 5);
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, left, top, side, side);
    }
    const star = Array.from({ length: 20 }, (_, i) => {
      const angle = ((i >> 1) * Math.PI) / 5 - Math.PI / 2;
      const r = (i >> 1) % 2 ? 0.45 : 1;
      return r * (i % 2 ? Math.sin(angle) : Math.cos(angle));
    });
    context.save();
    context.translate(x, y);
    context.beginPath();
    polygon(context, star, 11);
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = this.theme.ground;
    context.stroke();
    context.fillStyle = this.theme.accent;
    context.fill();
    context.restore();
    this.pill(context, name, x, bitmap && !above ? y - 24 : y + 24);
  }

  /** A short text on a ground of its own, moved so that it is seen whole; at `other` where `y` is beyond the frame. */
  pill(context, text, x, y, other = y) {
    const { plot } = this.geometry;
    context.font = `600 12px ${this.theme.font || "sans-serif"}`;
    const short = shorten(context, text, Math.min(220, plot.width - 24));
    const half = context.measureText(short).width / 2 + 6;
    const fits = y + 12 <= plot.bottom && y - 12 >= plot.top;
    const [middle, line] = [
      Math.max(plot.left + half + 3, Math.min(plot.right - half - 3, x)),
      Math.max(plot.top + 13, Math.min(plot.bottom - 13, fits ? y : other)),
    ];
    context.beginPath();
    context.roundRect(middle - half, line - 10, 2 * half, 20, 4);
    context.fillStyle = this.theme.ground;
    context.globalAlpha = 0.9;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 1;
    context.strokeStyle = this.theme.line;
    context.stroke();
    context.fillStyle = this.theme.ink;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(short, middle, line + 0.5);
  }

  drawLine(context) {
    const { line } = this.drag;
    context.beginPath();
    for (let i = 0; i < line.length; i += 2) context.lineTo(line[i], line[i + 1]);
    context.closePath();
    context.fillStyle = this.theme.accent;
    context.globalAlpha = 0.12;
    context.fill();
    context.globalAlpha = 1;
    context.lineJoin = "round";
    context.lineWidth = 3.5;
    context.strokeStyle = this.theme.ground;
    context.stroke();
    context.lineWidth = 1.5;
    context.strokeStyle = this.theme.accent;
    context.stroke();
  }

  // ---- the card of the point under the pointer

  point(index, byKey = false) {
    this.byKey = byKey && index !== null;
    if (index === this.pointed) return;
    this.pointed = index;
    this.root.dataset.hover = index ?? "";
    this.stage.classList.toggle("pointing", index !== null);
    this.showInLegend(index);
    this.drawOver();
  }

  nameOf(index) {
    const { num, extra } = this.header;
    if (index >= num) return extra[index - num].name;
    return this.held.captions?.[index].split("\n", 1)[0] || `picture ${index + 1}`;
  }

  /** The card lies in the browser's top layer, so that nothing cuts it off. */
  placeCard() {
    const index = this.pointed;
    clearTimeout(this.lingering);
    if (index === null || this.drag?.moved || this.journey || !this.geometry) {
      const hide = () => this.card.matches(":popover-open") && this.card.hidePopover();
      if (this.drag?.moved || this.journey) hide();
      else this.lingering = setTimeout(hide, LINGER_MS);
      return;
    }
    this.fillCard(index);
    if (!this.card.matches(":popover-open")) this.card.showPopover();
    const frame = this.stage.getBoundingClientRect();
    const [x, y] = this.placeOf(index);
    const half = this.halfOf(index) + 8;
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const above = frame.top + y - half - height;
    const below = Math.min(frame.top + y + half, innerHeight - height - 8);
    const left = Math.max(8, Math.min(frame.left + x - width / 2, document.documentElement.clientWidth - width - 8));
    this.card.style.transform = `translate(${Math.round(left)}px, ${Math.round(above >= 8 ? above : below)}px)`;
  }

  fillCard(index) {
    const { num } = this.header;
    const known = `${index} ${this.tokens.captions} ${Boolean(this.levels)} ${this.tokens.colouring}`;
    if (this.carded === known) return;
    this.carded = known;
    const [name, ...more] = (index < num ? (this.held.captions?.[index] ?? "") : this.nameOf(index)).split("\n");
    this.cardName.textContent = name || this.nameOf(index);
    this.cardMore.textContent = more.join("\n");
    this.cardPicture.hidden = !(index < num && this.levels);
    if (this.cardPicture.hidden) return;
    const { columns } = this.header;
    const [{ pixels, width, side }] = this.levels;
    this.cardPicture.width = this.cardPicture.height = side;
    const image = new ImageData(side, side);
    const target = new Uint32Array(image.data.buffer);
    const from = Math.floor(index / columns) * side * width + (index % columns) * side;
    for (let row = 0; row < side; row += 1) {
      target.set(pixels.subarray(from + row * width, from + row * width + side), row * side);
    }
    this.cardPicture.getContext("2d").putImageData(image, 0, 0);
  }

  // ---- legend and the line below the map

  buildLabels() {
    const { colouring } = this.held;
    const counts = new Uint32Array(colouring?.labels.length ?? 0);
    // Not all of many are in view.
    this.legendTitle.textContent = (colouring?.title ?? "") + (counts.length > 12 ? ` (${counts.length})` : "");
    if (counts.length) for (const row of colouring.index) counts[row] += 1;
    const buttons = [...counts.keys()].map((row) => {
      const button = document.createElement("button");
      button.type = "button";
      const [name, count] = [document.createElement("span"), document.createElement("i")];
      name.textContent = colouring.labels[row];
      count.textContent = counts[row].toLocaleString("en");
      button.title = `Only ${colouring.labels[row]}; with Shift several`;
      button.append(this.sample(row), name, count);
      button.addEventListener("click", (event) => this.toggleLabel(row, event.shiftKey || event.ctrlKey || event.metaKey));
      return button;
    });
    this.labels.replaceChildren(...buttons);
    this.labels.hidden = buttons.length === 0;
    this.showLabels();
  }

  /** A label's dot, large. */
  sample(row) {
    const { colouring } = this.held;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 32;
    const context = canvas.getContext("2d");
    context.translate(16, 16);
    context.fillStyle = `rgb(${this.colourOf(row).join(" ")})`;
    context.fill(shapePath(colouring.shapes[row], 10));
    return canvas;
  }

  toggleLabel(row, several) {
    const alone = this.only.size === 1 && this.only.has(row);
    if (!several) this.only = new Set(alone ? [] : [row]);
    else if (!this.only.delete(row)) this.only.add(row);
    this.showLabels();
    this.showStatus();
    this.paint();
  }

  showLabels() {
    this.labels.classList.toggle("some", this.only.size > 0);
    [...this.labels.children].forEach((button, row) => button.setAttribute("aria-pressed", this.only.has(row)));
    this.root.dataset.only = [...this.only].join(",");
  }

  showInLegend(index) {
    const { colouring } = this.held;
    if (!colouring) return;
    const real = index !== null && index < this.header.num;
    [...this.labels.children].forEach((button, row) => {
      button.classList.toggle("here", real && colouring.index[index] === row);
    });
    const value = real && colouring.values ? colouring.values[index] : NaN;
    this.mark.hidden = !Number.isFinite(value);
    const share = (value - colouring.low) / (colouring.high - colouring.low);
    if (!this.mark.hidden) this.mark.style.left = `${100 * Math.max(0, Math.min(1, share))}%`;
  }

  buildScales() {
    const { colouring, seams } = this.held;
    this.legend.hidden = !colouring && !seams;
    this.legendTitle.hidden = !colouring;
    this.labels.hidden = !colouring?.labels.length;
    this.scale.hidden = !colouring?.values;
    this.seamScale.hidden = !seams;
    if (colouring?.values) {
      drawBar(this.scale.querySelector("canvas"), colouring.palette);
      const { low, high, unit } = colouring;
      const texts = [low, (low + high) / 2, high].map((value) => format(value, high - low));
      if (unit) texts[2] += ` ${unit}`;
      this.scale.querySelectorAll("span").forEach((span, i) => (span.textContent = texts[i]));
    }
    if (seams) drawBar(this.seamScale.querySelector("canvas"), seams.lut);
  }

  showStatus() {
    const { num } = this.header;
    const words = (value) => value.toLocaleString("en");
    const noun = num === 1 ? "picture" : "pictures";
    const some = this.numSelected > 0;
    this.count.textContent = some ? `${words(this.numSelected)} of ${words(num)} selected` : `${words(num)} ${noun}`;
    this.clear.hidden = !some;
    this.take.hidden = this.only.size === 0;
    if (this.only.size) {
      const names = [...this.only].map((row) => this.held.colouring.labels[row]);
      this.take.textContent = names.length === 1 ? `Select all of “${names[0]}”` : `Select these ${names.length} labels`;
    }
    this.hint.textContent = HINTS[this.tool];
    this.root.dataset.selected = this.numSelected;
    this.root.dataset.lit = this.lit.join(",");
  }

  takeAll() {
    this.choose(Uint8Array.from({ length: this.header.num }, (_, i) => Number(this.eligible(i))));
  }

  // ---- pointer

  setTool(tool) {
    this.tool = tool;
    this.drag = null;
    this.tools.forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === tool));
    this.stage.classList.toggle("move", tool === "move");
    this.root.dataset.tool = tool;
    this.hint.textContent = HINTS[tool];
    this.remember();
  }

  remember() {
    if (!this.header || !this.view) return;
    const { key } = this.header;
    const { points, colouring } = this.tokens;
    kept.set(key, { points, colouring, view: this.view, tool: this.tool, only: this.only });
  }

  at(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** What is to be seen at a place: the uppermost thumbnail, else the nearest dot. */
  hit([left, top]) {
    if (!this.geometry || !this.inView([left, top])) return null;
    const { num, extra } = this.header;
    const near = extra.findIndex((_, k) => distance(this.placeOf(num + k), [left, top]) < 13);
    if (near >= 0) return num + near;
    const side = this.side();
    const flags = this.thumbnailed();
    if (side) {
      const strong = this.strong();
      const covers = (i) => {
        if ((flags && !flags[i]) || !this.eligible(i)) return Infinity;
        const [x, y] = this.placeOf(i);
        const inside = Math.abs(x - left) <= side / 2 && Math.abs(y - top) <= side / 2;
        return inside ? num - i + (strong[i] ? 0 : num) : Infinity; // what was painted last lies on top
      };
      const found = this.search(left, top, side / 2, covers);
      if (found !== null || !flags) return found;
    }
    return this.search(left, top, REACH, (i) => {
      if (flags?.[i] || !this.eligible(i)) return Infinity;
      const away = distance(this.placeOf(i), [left, top]);
      return away <= REACH ? away : Infinity;
    });
  }

  search(left, top, reach, cost) {
    const { unit } = this.geometry;
    const [x, y] = this.toData(left, top);
    const [perX, perY] = unit.map((each) => Math.abs(each) * this.view.zoom);
    return this.held.points.nearest(x, y, (reach + 1) / perX, (reach + 1) / perY, cost);
  }

  pressed(event) {
    if (!this.geometry || event.button > 1) return;
    this.glide = null;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    const start = this.at(event);
    const tool = event.button === 1 ? "move" : this.tool;
    if (event.button === 1) event.preventDefault(); // the browser would scroll by itself
    if (this.pointers.size === 1) {
      this.drag = { tool, start, view: this.view, moved: false, adds: event.shiftKey, repeat: event.detail > 1 };
    } else if (this.pointers.size === 2) {
      this.drag = { tool: "pinch", moved: true, view: this.view, start: [...this.pointers.values()] };
    }
  }

  moved(event) {
    const place = this.at(event);
    if (this.byKey && String(place) === String(this.rested)) return; // the map moved under a resting pointer
    this.rested = place;
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, place);
    const { drag } = this;
    if (!drag) {
      if (event.pointerType !== "touch" && this.geometry && !this.journey) this.point(this.hit(place));
      return;
    }
    drag.moved ||= distance(place, drag.start) > CLICK;
    if (drag.moved) this.dragged[drag.tool].call(this, drag, place);
  }

  dragged = {
    move(drag, [x, y]) {
      const { unit } = this.geometry;
      const { zoom } = drag.view;
      this.stage.classList.add("dragging");
      this.point(null);
      this.see({
        x: drag.view.x - (x - drag.start[0]) / (unit[0] * zoom),
        y: drag.view.y - (y - drag.start[1]) / (unit[1] * zoom),
        zoom,
      });
    },
    pinch(drag) {
      if (this.pointers.size < 2) return;
      const now = [...this.pointers.values()];
      const spread = ([a, b]) => Math.max(20, distance(a, b));
      const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      this.view = drag.view;
      this.see(this.zoomed(middle(drag.start), middle(now), (drag.view.zoom * spread(now)) / spread(drag.start)));
    },
    lasso(drag, place) {
      drag.line ??= [...drag.start];
      if (distance(place, drag.line.slice(-2)) >= 3) drag.line.push(...place);
      this.point(null);
      this.drawOver();
    },
    box(drag, [x, y]) {
      const [x0, y0] = drag.start;
      drag.line = [x0, y0, x, y0, x, y, x0, y];
      this.point(null);
      this.drawOver();
    },
  };

  released(event, counts = true) {
    const { drag } = this;
    if (!this.pointers.delete(event.pointerId) || !drag) return;
    this.drag = null;
    this.stage.classList.remove("dragging");
    if (counts && drag.line) this.encircle(drag.line, drag.adds || event.shiftKey);
    else if (counts && !drag.moved) this.clicked(this.at(event), drag, event);
    this.drawOver();
  }

  clicked(place, drag, event) {
    const index = this.hit(place);
    if (event.pointerType === "touch") this.point(index); // a finger does not hover, yet wants the card
    if (index !== null && index < this.header.num) {
      if (!drag.repeat) this.pick(index);
    } else if (index === null && drag.tool !== "move" && this.numSelected && !drag.adds) {
      this.choose(new Uint8Array(this.header.num));
    }
  }

  encircle(line, adds) {
    const { num } = this.header;
    const chosen = adds ? this.selected.slice() : new Uint8Array(num);
    const [left, top, right, bottom] = bounds(line);
    const places = this.places();
    for (let i = 0; i < num; i += 1) {
      const [x, y] = [places[2 * i], places[2 * i + 1]];
      if (x < left || x > right || y < top || y > bottom || !this.eligible(i)) continue;
      if (encloses(line, x, y)) chosen[i] = 1;
    }
    this.choose(chosen);
  }

  // ---- what is told to the server

  pick(index) {
    this.lit = [index];
    this.lastLit = index;
    this.showStatus();
    this.drawOver();
    this.pending.click = this.report([index]);
  }

  /** Selects the points that are flagged, and tells. */
  choose(flags) {
    if (flags.every((flag, i) => flag === this.selected[i])) return;
    this.setSelected(flags);
    this.showStatus();
    this.paint();
    this.live.textContent = this.count.textContent;
    const chosen = [];
    flags.forEach((flag, i) => flag && chosen.push(i));
    this.pending.lasso = this.report(chosen, "lasso");
  }

  setSelected(flags) {
    this.selected = flags;
    this.numSelected = flags.reduce((sum, flag) => sum + flag, 0);
  }

  // ---- moving and zooming

  see(view) {
    this.view = this.within(view);
    this.request();
  }

  /** The view at another zoom in which what is at one place of the screen comes to lie at another. */
  zoomed(from, to, zoom) {
    const [x, y] = this.toData(...from);
    const { plot, unit, furthest } = this.geometry;
    const now = Math.max(1, Math.min(furthest, zoom));
    return {
      x: x - (to[0] - plot.middle[0]) / (unit[0] * now),
      y: y - (to[1] - plot.middle[1]) / (unit[1] * now),
      zoom: now,
    };
  }

  glideTo(view) {
    const to = this.within(view);
    if (STILL.matches) return this.see(to);
    this.glide = { from: this.view, to, start: null };
    this.request();
  }

  /** Zooms around the point of interest, else around the middle. */
  zoomBy(factor) {
    if (!this.geometry) return;
    const from = this.pointed !== null ? this.placeOf(this.pointed) : this.geometry.plot.middle;
    this.glideTo(this.zoomed(from, from, (this.glide?.to.zoom ?? this.view.zoom) * factor));
  }

  reset() {
    if (this.geometry) this.glideTo(this.geometry.home);
  }

  bringIntoView(index) {
    const place = this.placeOf(index);
    if (this.inView(place, 24)) return;
    const { xy } = this.held.points;
    this.glideTo({ x: xy[2 * index], y: xy[2 * index + 1], zoom: this.view.zoom });
  }

  wheeled(event) {
    if (!this.geometry || event.timeStamp - this.scrolledElsewhere < 300) {
      this.scrolledElsewhere = event.timeStamp; // the page is being scrolled past the map
      return;
    }
    const perStep = event.deltaMode === 1 ? 16 : 1;
    const factor = Math.exp(-event.deltaY * perStep * (event.ctrlKey ? 0.01 : 0.0016));
    if (factor <= 1 && this.view.zoom <= 1 && !event.ctrlKey) return; // all is in view: the page may scroll
    event.preventDefault();
    this.glide = null;
    const place = this.at(event);
    this.see(this.zoomed(place, place, this.view.zoom * factor));
  }

  wheeledElsewhere(event) {
    if (!event.composedPath().includes(this.stage)) this.scrolledElsewhere = event.timeStamp;
  }

  // ---- keyboard

  keyPressed(event) {
    if (!this.geometry || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in ARROWS) this.walk(ARROWS[key]);
    else if (key === "Enter" || key === " ") this.enter(event.shiftKey);
    else if (key in TOOLS) this.setTool(TOOLS[key]);
    else if (key === "+" || key === "=") this.zoomBy(1.6);
    else if (key === "-" || key === "_") this.zoomBy(1 / 1.6);
    else if (key === "0") this.reset();
    else if (key === "Escape") this.escape();
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }

  /** To the nearest point in a direction; the first key shows where one is. */
  walk(direction) {
    const start = this.pointed ?? this.lit[0];
    const first = this.pointed === null;
    const next = first && start !== undefined ? start : this.neighbour(start, first ? null : direction);
    if (next === null) return;
    this.bringIntoView(next);
    this.point(next, true);
    this.say(next);
  }

  /** The point nearest to another one in a direction, or nearest to the middle. */
  neighbour(start, direction) {
    const from = start === undefined ? this.geometry.plot.middle : this.placeOf(start);
    const places = this.places();
    let best = null;
    let least = Infinity;
    for (let i = 0; i < this.header.num; i += 1) {
      if (i === start || !this.eligible(i)) continue;
      const cost = stretch(places[2 * i] - from[0], places[2 * i + 1] - from[1], direction);
      if (cost < least) [least, best] = [cost, i];
    }
    return best;
  }

  enter(adds) {
    const index = this.pointed;
    if (index === null || index >= this.header.num) return;
    if (adds) {
      const flags = this.selected.slice();
      flags[index] = 1 - flags[index];
      this.choose(flags);
    } else {
      this.pick(index);
      this.live.textContent = `${this.nameOf(index)}, picked`;
    }
  }

  /** Gives up the innermost thing that is going on. */
  escape() {
    if (this.drag) {
      this.drag = null;
      this.drawOver();
    } else if (this.numSelected) this.choose(new Uint8Array(this.header.num));
    else this.point(null);
  }

  say(index) {
    const caption = this.held.captions?.[index] ?? "";
    this.live.textContent = `${index + 1} of ${this.header.num}${caption && `: ${caption}`}`;
  }

  // ---- a picture to take away

  save() {
    if (!this.geometry) return;
    const ratio = Math.max(2, this.geometry.ratio);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(this.geometry.width * ratio);
    canvas.height = Math.round(this.geometry.height * ratio);
    const context = canvas.getContext("2d");
    this.paintOn(context, ratio, new Pixels(canvas.width, canvas.height));
    this.drawMarks(context, ratio, false);
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "map.png";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }
}

function floats(bytes) {
  return new Float32Array(bytes.slice().buffer); // a copy starts at a multiple of four
}

function toColouring(part) {
  const { header, bytes } = unpack(part);
  const numbersAt = 3 * header.colours;
  const many = (bytes.length - numbersAt) / (header.values ? 6 : 2);
  const indexAt = numbersAt + (header.values ? 4 * many : 0);
  return {
    ...header,
    palette: bytes.slice(0, numbersAt),
    values: header.values ? floats(bytes.subarray(numbersAt, indexAt)) : null,
    index: new Uint16Array(bytes.slice(indexAt).buffer),
  };
}

function toSeams(part) {
  const { header, bytes } = unpack(part);
  const [rows, columns] = header.shape;
  const lut = bytes.slice(0, 768);
  const colours = Uint32Array.from({ length: 256 }, (_, i) => packed(lut.subarray(3 * i, 3 * i + 3)));
  const downAt = 768 + rows * (columns - 1);
  return { ...header, lut, colours, right: bytes.slice(768, downAt), down: bytes.slice(downAt) };
}

/** Red, green and blue of a colour as CSS writes it. */
function rgbOf(text) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = text;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.subarray(0, 3)];
}

/** The first 255 colours of a table, side by side. */
function drawBar(canvas, lut) {
  const image = new ImageData(255, 1);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < 255; i += 1) pixels[i] = packed(lut.subarray(3 * i, 3 * i + 3));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A number with as many digits as a range of that length needs. */
function format(value, range) {
  if (range > 0 && (range >= 1e5 || range < 1e-3)) return value.toExponential(1).replace("-", "−");
  const digits = range > 0 ? Math.max(0, Math.min(4, 2 - Math.floor(Math.log10(range) + 1e-9))) : 2;
  const text = value.toFixed(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  return text.replace("-", "−");
}

/** 1, 2 or 5 times a power of ten, at least this much. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9));
}

function distance([x, y], [u, v]) {
  return Math.hypot(x - u, y - v);
}

/** How far a step is; infinitely far where it leaves its direction by more than 45 degrees. */
function stretch(x, y, direction) {
  if (!direction) return Math.hypot(x, y);
  const along = x * direction[0] + y * direction[1];
  const across = Math.abs(x * direction[1]) + Math.abs(y * direction[0]);
  return along > 0 && across <= along ? along + 2 * across : Infinity;
}

function ease(share) {
  return 1 - (1 - share) ** 3;
}

/** The text, with an ellipsis where it is wider than the room. */
function shorten(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let length = text.length - 1;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
  return `${text.slice(0, length)}…`;
}

export default (component) => mounted(maps, component, (mount) => new PictureMap(mount));
