const REACH = 16; // CSS px around the pointer in which a dot is found
const CLICK = 4; // a press that moves less is a click
const GLIDE_MS = 260;
const JOURNEY_MS = 700; // from one projection to the next
const LINGER_MS = 90; // the card stays that long between two points
const SCROLL_MS = 300; // a scroll of the page that comes past the map goes on until it has paused that long
const STEP = 1.6; // of the zoom buttons
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
    this.base = find(".base"); // the pictures
    this.over = find(".over"); // marks, drawn anew at every move of the pointer
    this.tools = [...mount.querySelectorAll("[data-tool]")];
    this.minus = find(".minus");
    this.plus = find(".plus");
    this.count = find(".count");
    this.clear = find(".clear");
    this.take = find(".take");
    this.hint = find(".hint");
    this.card = find(".card");
    this.cardPicture = find(".card canvas");
    this.cardName = find(".name");
    this.cardMore = find(".more");
    this.live = find(".live");
    this.scene = new Scene();
    this.legend = new Legend(mount, () => this.labelsChanged());
    this.tokens = {}; // of the parts that are on screen
    this.extras = new Map(); // pictures of what is placed into the map, by token
    this.lit = [];
    this.pointed = null; // a point, or num + k for what is placed into the map
    this.pointers = new Map(); // fingers and buttons that are down
    this.drag = null;
    this.pending = { click: 0, lasso: 0 }; // stamps of what was told last
    this.scrolled = -Infinity; // when the page was, last
    this.counts = { paints: 0, overlays: 0, decodes: 0 };
    this.listen(find);
    this.setTool("move");
  }

  listen(find) {
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
    on(this.minus, "click", () => this.zoomBy(1 / STEP));
    on(this.plus, "click", () => this.zoomBy(STEP));
    on(find(".reset"), "click", () => this.reset());
    on(find(".save"), "click", () => this.save());
    on(this.clear, "click", () => this.choose(new Uint8Array(this.scene.num)));
    on(this.take, "click", () => this.takeLabels());
    on(this.root, "transitionend", (event) => event.target === this.root && this.layOut()); // another theme
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
    this.wanted = this.scene.view = null;
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
        held[name] = known ? this.scene[name] : token && prepare(await parts.get(token));
      }
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    if (this.wanted !== header) return;
    this.accept(header, held);
    await this.loadThumbnails(header);
    if (this.wanted === header) this.root.dataset.ms = (performance.now() - start).toFixed(1);
  }

  async loadThumbnails(header) {
    header.extra.filter(({ picture }) => picture).forEach((extra) => this.loadExtra(extra));
    const { atlas, atlasType, thumb } = header;
    if (!atlas || this.scene.levels) return;
    let levels;
    try {
      const bitmap = await decode(await parts.get(atlas), atlasType);
      levels = pyramid(bitmap, thumb);
      bitmap.close();
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    this.counts.decodes += 1;
    if (this.wanted?.atlas !== atlas) return;
    this.scene.levels = levels;
    this.paint();
  }

  async loadExtra({ picture, type }) {
    if (this.extras.has(picture)) return;
    this.extras.set(picture, null);
    try {
      this.extras.set(picture, await decode(await parts.get(picture), type));
    } catch (error) {
      return; // its star and its name are there
    }
    this.drawOver();
  }

  fail() {
    this.root.dataset.error = "decode";
    this.live.textContent = this.hint.textContent = "The pictures could not be decoded.";
  }

  accept(header, held) {
    const { scene } = this;
    const before = scene.header;
    const isNew = (name) => header[name] !== this.tokens[name];
    const [points, colouring, captions, atlas] = ["points", "colouring", "captions", "atlas"].map(isNew);
    const goes = points && scene.view && before.num === header.num && !captions && !STILL.matches;
    const from = goes ? scene.places() : null;
    for (const name of [...Object.keys(PREPARE), "atlas"]) this.tokens[name] = header[name];
    Object.assign(scene, held, { header });
    if (atlas) scene.levels = null;
    if (points) this.newPoints(before, from);
    if (this.pointed >= header.num + header.extra.length) this.point(null);
    this.stage.setAttribute("aria-label", header.aria);
    this.legend.show(scene.colouring, scene.seams);
    if (colouring && !before) this.restoreLabels();
    scene.only = this.legend.only;
    this.acceptChoices(header, before);
    scene.emphasise();
    this.showStatus();
    this.layOut();
    const [first] = this.lit;
    const shows = before && scene.view && first !== undefined && first !== this.lastLit;
    this.lastLit = first;
    if (shows) this.bringIntoView(first);
  }

  newPoints(before, from) {
    const { scene } = this;
    const last = before ? null : kept.get(scene.header.key);
    if (last) this.setTool(last.tool);
    this.centre = last?.points === this.tokens.points ? last.centre : null; // to be taken up when laid out
    scene.view = scene.thinning = this.glide = null;
    scene.journey = from && { from, share: 0 };
    if (before && before.num !== scene.num) this.pointed = null;
  }

  restoreLabels() {
    const last = kept.get(this.scene.header.key);
    if (last?.colouring === this.tokens.colouring) this.legend.restore(last.only);
  }

  /** What the server marks, unless the person has said something newer that it has not answered yet. */
  acceptChoices({ answers, flags, lit, num }, before) {
    if (answers[0] >= this.pending.click) this.lit = lit;
    if (answers[1] < this.pending.lasso && before?.num === num) return;
    this.scene.selected = Uint8Array.from({ length: num }, (_, i) => (flags[i >> 3] >> (i & 7)) & 1);
  }

  // ---- layout

  layOut() {
    const { scene, stage } = this;
    if (!scene.header || !this.wanted || stage.clientWidth === 0) return; // in a hidden tab; the observer calls again
    const theme = this.readTheme();
    if (JSON.stringify(theme) !== JSON.stringify(scene.theme)) scene.theme = theme;
    const view = new View(scene.header, scene.points, [stage.clientWidth, stage.clientHeight]);
    view.centre = view.within(scene.view?.centre ?? this.centre ?? view.home);
    scene.view = view;
    this.ratio = devicePixelRatio || 1;
    const size = view.size.map((length) => Math.round(length * this.ratio));
    if (this.buffer?.width !== size[0] || this.buffer?.height !== size[1]) {
      this.buffer = new Pixels(...size);
      for (const canvas of [this.base, this.over]) [canvas.width, canvas.height] = size;
    }
    const look = JSON.stringify([view, theme, this.tokens, scene.header.mode, scene.header.axes, [...scene.only]]);
    if (look === this.look && String(scene.selected) === this.chosen) return this.drawOver();
    this.look = look;
    this.chosen = String(scene.selected);
    if (scene.journey) this.request();
    else this.paint();
  }

  readTheme() {
    const style = getComputedStyle(this.root);
    const [ground, ink] = [style.backgroundColor, style.color].map(rgbOf);
    const accent = rgbOf(style.getPropertyValue("--st-primary-color") || style.color);
    const blend = (share) => ink.map((part, i) => Math.round(part * share + ground[i] * (1 - share)));
    const font = style.getPropertyValue("--st-font").trim();
    return { ground, ink, accent, quiet: blend(0.7), line: blend(0.2), font };
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
    const { scene, glide } = this;
    if (!scene.view) return;
    if (glide) {
      glide.start ??= now;
      const share = Math.min(1, (now - glide.start) / GLIDE_MS);
      scene.view.centre = share < 1 ? between(glide.from, glide.to, ease(share)) : glide.to;
      if (share >= 1) this.glide = null;
    }
    if (scene.journey) {
      scene.journey.start ??= now;
      scene.journey.share = Math.min(1, (now - scene.journey.start) / JOURNEY_MS);
      if (scene.journey.share >= 1) scene.journey = null;
    }
    if (this.glide || scene.journey) this.request();
  }

  paint() {
    const { scene } = this;
    if (!scene.view) return;
    const context = this.base.getContext("2d");
    scene.paint(context, this.ratio, this.buffer);
    this.drawFrame(context, this.ratio);
    this.drawOver();
    this.remember();
    const { plot, scale, centre, zoom } = scene.view;
    this.stage.classList.toggle("whole", zoom < 1.001);
    this.minus.disabled = zoom <= 1;
    this.plus.disabled = zoom >= scene.view.furthest;
    // For tests: the middle of the frame, CSS px per unit, and what is in the middle.
    this.root.dataset.view = [...plot.middle, ...scale, centre.x, centre.y].join(" ");
    this.root.dataset.zoom = zoom.toFixed(3);
    this.root.dataset.paints = this.counts.paints += 1;
    this.root.dataset.decodes = this.counts.decodes;
    const complete = scene.levels || !scene.header.atlas;
    if (complete) this.root.dataset.ready = Object.values(this.tokens).filter(Boolean).join(" ");
  }

  drawFrame(context, ratio) {
    const { header, view, theme } = this.scene;
    const marks = new Marks(context, view, theme);
    marks.scaled(ratio, () => marks.frame(header.axes, header.ticks));
    if (header.axes && document.fonts.status === "loading") document.fonts.ready.then(() => this.request());
  }

  drawOver() {
    if (!this.scene.view) return;
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.over.width, this.over.height);
    this.drawMarks(context, this.ratio, this.pointed, this.drag?.line);
    this.placeCard();
    this.root.dataset.overlays = this.counts.overlays += 1;
  }

  drawMarks(context, ratio, pointed = null, line = null) {
    const { scene } = this;
    const { view, theme, num, header } = scene;
    const marks = new Marks(context, view, theme);
    const ring = (index, gap, width, colour) => {
      const half = scene.halfOf(index) + gap + width / 2;
      marks.ring(scene.placeOf(index), half, scene.isThumbnail(index), width, colour);
    };
    const place = (index, draw) => {
      const at = scene.placeOf(index);
      if (view.holds(at)) draw(at);
      else marks.arrow(at, this.nameOf(index));
    };
    const draw = () => {
      header.extra.forEach(({ name, picture }, k) => {
        place(num + k, (at) => marks.star(at, name, this.extras.get(picture)));
      });
      this.lit.forEach((index) => {
        place(index, ([x, y]) => {
          ring(index, 3, 3, theme.accent);
          const away = scene.halfOf(index) + 20;
          marks.pill(this.nameOf(index), x, y + away, y - away);
        });
      });
      if (pointed !== null && pointed < num && !this.lit.includes(pointed)) ring(pointed, 2, 2, theme.ink);
    };
    marks.scaled(ratio, () => {
      marks.clipped(() => {
        if (!scene.journey) draw();
        if (line) marks.lasso(line);
      });
    });
  }

  // ---- the card of the point under the pointer

  point(index, byKey = false) {
    this.byKey = byKey && index !== null;
    if (index === this.pointed) return;
    this.pointed = index;
    this.root.dataset.hover = index ?? "";
    this.stage.classList.toggle("pointing", index !== null);
    this.legend.point(index !== null && index < this.scene.num ? index : null);
    this.drawOver();
  }

  nameOf(index) {
    const { num, header, captions } = this.scene;
    if (index >= num) return header.extra[index - num].name;
    return captions?.[index].split("\n", 1)[0] || `picture ${index + 1}`;
  }

  /** The card lies in the browser's top layer, so that nothing cuts it off. */
  placeCard() {
    const { pointed, scene } = this;
    clearTimeout(this.lingering);
    const busy = this.drag?.moved || scene.journey;
    if (pointed === null || busy || !scene.view) {
      const hide = () => this.card.matches(":popover-open") && this.card.hidePopover();
      if (busy) hide();
      else this.lingering = setTimeout(hide, LINGER_MS);
      return;
    }
    this.fillCard(pointed);
    if (!this.card.matches(":popover-open")) this.card.showPopover();
    const frame = this.stage.getBoundingClientRect();
    const [x, y] = scene.placeOf(pointed);
    const away = scene.halfOf(pointed) + 8;
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const above = frame.top + y - away - height;
    const below = Math.min(frame.top + y + away, innerHeight - height - 8);
    const left = Math.max(8, Math.min(frame.left + x - width / 2, document.documentElement.clientWidth - width - 8));
    this.card.style.transform = `translate(${Math.round(left)}px, ${Math.round(above >= 8 ? above : below)}px)`;
  }

  fillCard(index) {
    const { num, captions, levels } = this.scene;
    const known = [index, this.tokens.captions, this.tokens.atlas, Boolean(levels)].join(" ");
    if (this.carded === known) return;
    this.carded = known;
    const [, ...more] = index < num ? (captions?.[index] ?? "").split("\n") : [];
    this.cardName.textContent = this.nameOf(index);
    this.cardMore.textContent = more.join("\n");
    this.cardPicture.hidden = index >= num || !levels;
    if (this.cardPicture.hidden) return;
    const { columns } = this.scene.header;
    const image = cut(levels[0], index % columns, Math.floor(index / columns));
    this.cardPicture.width = this.cardPicture.height = image.width;
    this.cardPicture.getContext("2d").putImageData(image, 0, 0);
  }

  // ---- labels, and the line below the map

  labelsChanged() {
    this.scene.only = this.legend.only;
    this.scene.emphasise();
    this.showStatus();
    this.paint();
  }

  showStatus() {
    const { num, numSelected } = this.scene;
    const words = (value) => value.toLocaleString("en");
    const all = `${words(num)} ${num === 1 ? "picture" : "pictures"}`;
    this.count.textContent = numSelected ? `${words(numSelected)} of ${words(num)} selected` : all;
    this.clear.hidden = numSelected === 0;
    const names = this.legend.names();
    this.take.hidden = names.length === 0;
    this.take.textContent = names.length === 1 ? `Select all of “${names[0]}”` : `Select these ${names.length} labels`;
    this.root.dataset.selected = numSelected;
    this.root.dataset.lit = this.lit.join(",");
    this.root.dataset.only = names.join(",");
  }

  takeLabels() {
    this.choose(Uint8Array.from({ length: this.scene.num }, (_, i) => Number(this.scene.eligible(i))));
  }

  setTool(tool) {
    this.tool = tool;
    this.drag = null;
    this.tools.forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === tool));
    this.stage.classList.toggle("move", tool === "move");
    this.root.dataset.tool = tool;
    this.hint.textContent = HINTS[tool];
    this.remember();
    this.drawOver();
  }

  remember() {
    const { view, header } = this.scene;
    if (!view) return;
    const { points, colouring } = this.tokens;
    kept.set(header.key, { points, colouring, centre: view.centre, tool: this.tool, only: [...this.legend.only] });
  }

  // ---- pointer

  at(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  hit(place) {
    return this.scene.view && !this.scene.journey ? this.scene.hit(place, REACH) : null;
  }

  pressed(event) {
    if (!this.scene.view || event.button > 1) return;
    this.glide = null;
    this.stage.setPointerCapture(event.pointerId);
    const start = this.at(event);
    this.pointers.set(event.pointerId, start);
    if (event.button === 1) event.preventDefault(); // the browser would scroll by itself
    const { centre } = this.scene.view;
    if (this.pointers.size === 1) {
      const tool = event.button === 1 ? "move" : this.tool;
      this.drag = { tool, start, centre, moved: false, adds: event.shiftKey, again: event.detail > 1 };
    } else if (this.pointers.size === 2) {
      this.drag = { tool: "pinch", start: [...this.pointers.values()], centre, moved: true };
    }
  }

  moved(event) {
    const place = this.at(event);
    if (this.byKey && String(place) === String(this.rested)) return; // the map moved under a resting pointer
    this.rested = place;
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, place);
    const { drag } = this;
    if (!drag) {
      if (event.pointerType !== "touch") this.point(this.hit(place));
      return;
    }
    drag.moved ||= distance(place, drag.start) > CLICK;
    if (!drag.moved) return;
    this.point(null);
    this.dragged[drag.tool].call(this, drag, place);
  }

  dragged = {
    move({ start, centre }, [x, y]) {
      const [perX, perY] = this.scene.view.scale;
      this.stage.classList.add("dragging");
      this.see({ ...centre, x: centre.x - (x - start[0]) / perX, y: centre.y - (y - start[1]) / perY });
    },
    pinch({ start, centre }) {
      const { view } = this.scene;
      const now = [...this.pointers.values()];
      const spread = ([a, b]) => Math.max(20, distance(a, b));
      const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      view.centre = centre;
      this.see(view.zoomed(middle(start), middle(now), (centre.zoom * spread(now)) / spread(start)));
    },
    lasso(drag, place) {
      drag.line ??= [...drag.start];
      if (distance(place, drag.line.slice(-2)) >= 3) drag.line.push(...place);
      this.drawOver();
    },
    box(drag, [x, y]) {
      const [x0, y0] = drag.start;
      drag.line = [x0, y0, x, y0, x, y, x0, y];
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

  clicked(place, { tool, adds, again }, event) {
    const { num, numSelected } = this.scene;
    const index = this.hit(place);
    if (event.pointerType === "touch") this.point(index); // a finger does not hover, yet wants the card
    if (index !== null && index < num && !again) this.pick(index);
    if (index === null && tool !== "move" && numSelected && !adds) this.choose(new Uint8Array(num));
  }

  encircle(line, adds) {
    const { scene } = this;
    const chosen = adds ? scene.selected.slice() : new Uint8Array(scene.num);
    const [left, top, right, bottom] = bounds(line);
    const places = scene.places();
    for (let i = 0; i < scene.num; i += 1) {
      const [x, y] = [places[2 * i], places[2 * i + 1]];
      if (x < left || x > right || y < top || y > bottom || !scene.eligible(i)) continue;
      if (encloses(line, x, y)) chosen[i] = 1;
    }
    this.choose(chosen);
  }

  // ---- what is told to the server

  pick(index) {
    this.lit = [index];
    this.lastLit = index; // the answer must not move the map
    this.showStatus();
    this.drawOver();
    this.pending.click = this.report([index]);
  }

  /** Selects the points that are flagged, and tells. */
  choose(flags) {
    const { scene } = this;
    if (flags.every((flag, i) => flag === scene.selected[i])) return;
    scene.selected = flags;
    scene.emphasise();
    this.showStatus();
    this.paint();
    this.live.textContent = this.count.textContent;
    const chosen = [];
    flags.forEach((flag, i) => flag && chosen.push(i));
    this.pending.lasso = this.report(chosen, "lasso");
  }

  // ---- moving and zooming

  see(centre) {
    this.scene.view.centre = this.scene.view.within(centre);
    this.request();
  }

  glideTo(centre) {
    if (STILL.matches) return this.see(centre);
    this.glide = { from: this.scene.view.centre, to: this.scene.view.within(centre) };
    this.request();
  }

  /** Zooms around the point of interest, else around the middle. */
  zoomBy(factor) {
    const { scene, pointed, glide } = this;
    if (!scene.view) return;
    const around = pointed === null ? scene.view.plot.middle : scene.placeOf(pointed);
    this.glideTo(scene.view.zoomed(around, around, (glide?.to.zoom ?? scene.view.zoom) * factor));
  }

  reset() {
    if (this.scene.view) this.glideTo(this.scene.view.home);
  }

  bringIntoView(index) {
    const { view, points } = this.scene;
    if (view.holds(this.scene.placeOf(index), 24)) return;
    this.glideTo({ x: points.xy[2 * index], y: points.xy[2 * index + 1], zoom: view.zoom });
  }

  wheeled(event) {
    if (!this.scene.view) return;
    const px = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    const factor = Math.exp(-px * (event.ctrlKey ? 0.01 : 0.0016));
    const whole = factor <= 1 && this.scene.view.zoom <= 1 && !event.ctrlKey;
    if (whole || !event.cancelable || event.timeStamp - this.scrolled < SCROLL_MS) {
      this.scrolled = event.timeStamp; // the page is being scrolled past the map
      return;
    }
    event.preventDefault();
    this.glide = null;
    const place = this.at(event);
    this.see(this.scene.view.zoomed(place, place, this.scene.view.zoom * factor));
  }

  wheeledElsewhere(event) {
    if (!event.composedPath().includes(this.stage)) this.scrolled = event.timeStamp;
  }

  // ---- keyboard

  keyPressed(event) {
    if (!this.scene.view || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in ARROWS) this.walk(ARROWS[key]);
    else if (key === "Enter" || key === " ") this.enter(event.shiftKey);
    else if (key in TOOLS) this.setTool(TOOLS[key]);
    else if (key === "+" || key === "=") this.zoomBy(STEP);
    else if (key === "-" || key === "_") this.zoomBy(1 / STEP);
    else if (key === "0") this.reset();
    else if (key === "Escape") this.escape();
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }

  /** To the nearest point in a direction; the first key shows where one is. */
  walk(direction) {
    const { scene, pointed } = this;
    const [start] = pointed === null ? this.lit : [pointed];
    const from = start === undefined ? scene.view.plot.middle : scene.placeOf(start);
    const shown = pointed === null && start !== undefined;
    const next = shown ? start : scene.neighbour(from, pointed === null ? null : direction, start);
    if (next === null) return;
    this.bringIntoView(next);
    this.point(next, true);
    const caption = scene.captions?.[next] ?? "";
    this.live.textContent = `${next + 1} of ${scene.num}${caption && `: ${caption}`}`;
  }

  enter(adds) {
    const { pointed, scene } = this;
    if (pointed === null || pointed >= scene.num) return;
    if (adds) {
      const flags = scene.selected.slice();
      flags[pointed] = 1 - flags[pointed];
      this.choose(flags);
    } else {
      this.pick(pointed);
      this.live.textContent = `${this.nameOf(pointed)}, picked`;
    }
  }

  /** Gives up the innermost thing that is going on. */
  escape() {
    if (this.drag) {
      this.drag = null;
      this.drawOver();
    } else if (this.scene.numSelected) this.choose(new Uint8Array(this.scene.num));
    else this.point(null);
  }

  // ---- a picture to take away

  save() {
    const { scene } = this;
    if (!scene.view) return;
    const ratio = Math.max(2, this.ratio);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = scene.view.size.map((length) => Math.round(length * ratio));
    const context = canvas.getContext("2d");
    scene.paint(context, ratio, new Pixels(canvas.width, canvas.height));
    this.drawFrame(context, ratio);
    this.drawMarks(context, ratio);
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
  const valuesAt = 3 * header.colours;
  const num = (bytes.length - valuesAt) / (header.values ? 6 : 2);
  const indexAt = valuesAt + (header.values ? 4 * num : 0);
  return {
    ...header,
    palette: bytes.slice(0, valuesAt),
    values: header.values ? floats(bytes.subarray(valuesAt, indexAt)) : null,
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
  context.fillStyle = text.trim();
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.subarray(0, 3)];
}

export default (component) => mounted(maps, component, (mount) => new PictureMap(mount));
