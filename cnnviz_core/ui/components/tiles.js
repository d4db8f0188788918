const GAP = 8; // CSS px between tiles
const EDGE = 5; // around all of them: room for the outline of a tile at the edge
const LABEL = 20; // height of the line under a tile
const TALLEST = 4096; // a wall without max_height scrolls beyond this; browsers bound the size of a canvas
const walls = new WeakMap();

class Wall {
  constructor(mount) {
    const find = (selector) => mount.querySelector(selector);
    this.root = find(".wall");
    this.scroller = find(".scroller");
    this.space = find(".space");
    this.port = find(".port");
    this.canvas = find("canvas");
    this.option = find("[role=option]");
    this.selectedRing = find(".selected");
    this.pointedRing = find(".pointed");
    this.tip = find(".tip");
    this.live = find(".live");
    this.header = null; // what is on screen
    this.bitmap = null;
    this.selected = null;
    this.pointed = null; // under the pointer, or the keyboard's cursor
    this.cursor = null;
    this.pending = 0; // stamp of the last click
    this.counts = { decodes: 0, paints: 0 };
    this.listen();
  }

  listen() {
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const on = (target, name, action, more = {}) => target.addEventListener(name, action, { signal, ...more });
    on(this.port, "pointermove", (event) => this.pointerMoved(event));
    on(this.port, "pointerleave", () => this.pointerLeft());
    on(this.port, "click", (event) => this.clicked(event));
    on(this.port, "keydown", (event) => this.keyPressed(event));
    on(this.port, "focus", () => this.focused());
    on(this.port, "blur", () => this.point(null));
    on(this.scroller, "scroll", () => this.request());
    on(document, "scroll", () => this.repoint(), { capture: true, passive: true }); // the page, not this wall
    this.resizes = new ResizeObserver(() => this.layOut());
    this.resizes.observe(this.root);
    onPixelRatio(() => this.layOut(), signal);
  }

  close() {
    this.listeners.abort();
    this.resizes.disconnect();
    cancelAnimationFrame(this.frame);
    this.bitmap?.close();
    this.header = this.wanted = null;
  }

  // ---- what the server says

  update({ header }, report) {
    this.report = report;
    this.wanted = header;
    if (header.atlas !== this.loading) this.load(header, performance.now());
    // The old picture stays until the new one is decoded; before the first one there are empty tiles.
    if (!this.header || header.atlas === this.header.atlas) this.accept(header);
  }

  async load(header, start) {
    this.loading = header.atlas;
    let bitmap;
    try {
      bitmap = await decode(await parts.get(header.atlas), header.type);
    } catch (error) {
      if (this.wanted === header) this.fail();
      return;
    }
    this.root.dataset.decodes = this.counts.decodes += 1;
    if (this.wanted?.atlas !== header.atlas || this.loaded === header.atlas) {
      bitmap.close();
      return;
    }
    this.bitmap?.close();
    this.bitmap = bitmap;
    this.loaded = header.atlas;
    this.accept(this.wanted);
    this.root.dataset.ms = (performance.now() - start).toFixed(1);
    this.root.dataset.ready = header.atlas;
  }

  fail() {
    this.root.dataset.error = "decode";
    this.live.textContent = "The pictures could not be decoded.";
  }

  accept(header) {
    const first = this.header === null;
    this.header = header;
    this.port.setAttribute("aria-label", header.aria);
    if (this.cursor !== null && this.cursor >= header.num) this.cursor = null;
    if (this.pointed !== null && this.pointed >= header.num) this.point(null);
    this.layOut();
    // A click that the server has not yet answered is not undone by its answer to an earlier one.
    if (header.answers >= this.pending && (first || header.selected !== this.selected)) {
      this.select(header.selected);
      if (header.selected !== null) this.reveal(header.selected);
    } else {
      this.select(this.selected);
    }
  }

  // ---- geometry, in device px so that edges are crisp

  layOut() {
    const { header } = this;
    if (!header || this.root.clientWidth === 0) return; // in a hidden tab; the observer calls again
    const ratio = devicePixelRatio || 1;
    const cap = Math.min(header.maxHeight ?? TALLEST, TALLEST);
    let grid = this.gridIn(this.root.clientWidth, ratio);
    const scrolls = grid.height / ratio > cap;
    this.scroller.style.overflowY = scrolls ? "scroll" : "hidden";
    if (scrolls) grid = this.gridIn(this.scroller.clientWidth, ratio);
    grid.portHeight = scrolls ? Math.floor(cap * ratio) : grid.height;

    const look = JSON.stringify([grid, this.colours(), header.labels, header.smooth, this.loaded]);
    if (look === this.look) return;
    this.look = look;
    const first = this.grid ? this.firstVisible() : (this.selected ?? 0); // to stay in view
    this.grid = grid;
    const css = (value) => `${value / ratio}px`;
    this.space.style.height = css(grid.height);
    this.scroller.style.height = this.port.style.height = this.canvas.style.height = css(grid.portHeight);
    this.canvas.style.width = css(grid.width);
    if (this.canvas.width !== grid.width) this.canvas.width = grid.width;
    if (this.canvas.height !== grid.portHeight) this.canvas.height = grid.portHeight;
    this.scroller.scrollTop = (Math.floor(first / grid.columns) * grid.pitchY) / ratio;
    this.root.dataset.columns = grid.columns;
    this.paint();
  }

  /** Places for the tiles in a box of this many CSS px. */
  gridIn(cssWidth, ratio) {
    const { num, px, tile, labels } = this.header;
    const [width, gap, edge] = [cssWidth, GAP, EDGE].map((length) => Math.round(length * ratio));
    const room = width - 2 * edge + gap; // of the tiles and a gap after each
    const columns = Math.max(1, Math.floor(room / (px * ratio + gap)));
    const widest = Math.max(1, Math.floor(room / columns) - gap);
    const tileWidth = num < columns ? Math.min(widest, Math.round(px * ratio)) : widest;
    const tileHeight = Math.max(1, Math.round((tileWidth * tile[0]) / tile[1]));
    const pitchX = num < columns ? tileWidth + gap : room / columns; // full rows end flush, to the pixel
    const pitchY = tileHeight + gap + (labels ? Math.round(LABEL * ratio) : 0);
    const rows = Math.ceil(num / columns);
    const height = rows * pitchY - gap + 2 * edge;
    return { ratio, width, height, edge, gap, columns, rows, tileWidth, tileHeight, pitchX, pitchY };
  }

  /** Left and top of a tile in the whole wall. */
  place(index) {
    const { columns, edge, pitchX, pitchY } = this.grid;
    return [edge + Math.round((index % columns) * pitchX), edge + Math.floor(index / columns) * pitchY];
  }

  /** The tile at a point of the screen; gaps belong to the nearer tile, so that the outline does not flicker. */
  tileAt(clientX, clientY) {
    const { columns, edge, gap, pitchX, pitchY } = this.grid;
    const box = this.canvas.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * this.canvas.width;
    const y = ((clientY - box.top) / box.height) * this.canvas.height + this.scrolled();
    const column = Math.floor((x - edge + gap / 2) / pitchX);
    const row = Math.floor((y - edge + gap / 2) / pitchY);
    const index = row * columns + column;
    const inside = column >= 0 && column < columns && row >= 0 && index < this.header.num;
    return inside ? index : null;
  }

  scrolled() {
    return Math.round(this.scroller.scrollTop * this.grid.ratio);
  }

  firstVisible() {
    return Math.round(this.scrolled() / this.grid.pitchY) * this.grid.columns;
  }

  // ---- painting

  colours() {
    const style = getComputedStyle(this.root);
    const names = ["--st-text-color", "--st-secondary-background-color", "--st-font"];
    return names.map((name) => style.getPropertyValue(name));
  }

  request() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    if (!this.grid || !this.header) return;
    const { header, bitmap, canvas } = this;
    const { columns, rows, tileWidth, tileHeight, pitchX, pitchY, ratio } = this.grid;
    const [ink, empty, font] = this.colours();
    const top = this.scrolled();
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = header.smooth || tileWidth < header.tile[1];
    context.imageSmoothingQuality = "high";
    context.font = `${Math.round(12 * ratio)}px ${font || "sans-serif"}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const from = Math.max(0, Math.floor(top / pitchY) - 1) * columns;
    const to = Math.min(header.num, Math.min(rows, Math.ceil((top + canvas.height) / pitchY)) * columns);
    const [sourceHeight, sourceWidth] = header.tile;
    const alone = new OffscreenCanvas(sourceWidth, sourceHeight);
    alone.getContext("2d").globalCompositeOperation = "copy";
    for (let index = from; index < to; index += 1) {
      const [x, y] = this.place(index);
      if (bitmap) {
        const left = (index % header.columns) * sourceWidth;
        const above = Math.floor(index / header.columns) * sourceHeight;
        const source = [left, above, sourceWidth, sourceHeight];
        if (context.imageSmoothingEnabled) {
          // Smoothing would mix the neighbours' pixels in, so a tile is taken out of the atlas before it is scaled.
          alone.getContext("2d").drawImage(bitmap, ...source, 0, 0, sourceWidth, sourceHeight);
          context.drawImage(alone, x, y - top, tileWidth, tileHeight);
        } else {
          context.drawImage(bitmap, ...source, x, y - top, tileWidth, tileHeight);
        }
      } else {
        context.fillStyle = empty;
        context.fillRect(x, y - top, tileWidth, tileHeight);
      }
      if (header.labels) {
        context.fillStyle = ink;
        const middle = y - top + tileHeight + (LABEL / 2 + 2) * ratio;
        context.fillText(shorten(context, header.labels[index], pitchX - 2 * ratio), x + tileWidth / 2, middle);
      }
    }
    if (header.labels && document.fonts.status === "loading") document.fonts.ready.then(() => this.request());
    this.port.classList.toggle("above", top > 0);
    this.port.classList.toggle("below", top + canvas.height < this.grid.height - 1);
    this.root.dataset.paints = this.counts.paints += 1;
    this.repoint();
    this.placeRings();
  }

  placeRings() {
    this.encircle(this.selectedRing, this.selected);
    this.encircle(this.pointedRing, this.pointed);
    this.encircle(this.option, this.cursor ?? this.selected ?? 0); // tells a magnifier where to look
    this.placeTip();
  }

  encircle(ring, index) {
    ring.hidden = index === null || !this.grid;
    if (ring.hidden) return;
    const { ratio, tileWidth, tileHeight } = this.grid;
    const [x, y] = this.place(index);
    ring.style.width = `${tileWidth / ratio}px`;
    ring.style.height = `${tileHeight / ratio}px`;
    ring.style.transform = `translate(${x / ratio}px, ${(y - this.scrolled()) / ratio}px)`;
  }

  /** The tooltip lies in the browser's top layer, so that nothing cuts it off. */
  placeTip() {
    const text = this.pointed === null ? "" : (this.header.hints?.[this.pointed] ?? "");
    if (!text) {
      if (this.tip.matches(":popover-open")) this.tip.hidePopover();
      return;
    }
    if (this.tip.textContent !== text) this.tip.textContent = text;
    if (!this.tip.matches(":popover-open")) this.tip.showPopover();
    const box = this.pointedRing.getBoundingClientRect();
    const frame = this.port.getBoundingClientRect();
    const size = this.tip.getBoundingClientRect();
    const above = Math.max(box.top, frame.top) - size.height - 8;
    const below = Math.min(box.bottom, frame.bottom) + 8;
    const left = box.left + box.width / 2 - size.width / 2;
    this.tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - size.width - 8))}px`;
    this.tip.style.top = `${above >= 8 ? above : below}px`;
  }

  // ---- pointer and keyboard

  point(index) {
    if (index === this.pointed) return;
    this.pointed = index;
    this.root.dataset.hover = index ?? "";
    if (this.grid) this.placeRings();
  }

  pointerMoved(event) {
    // A wall scrolled by the keyboard makes the browser report the resting pointer anew.
    if (event.clientX === this.pointer?.[0] && event.clientY === this.pointer?.[1] && this.byKey) return;
    this.pointer = [event.clientX, event.clientY];
    this.byKey = false;
    if (event.pointerType !== "touch" && this.grid) this.point(this.tileAt(...this.pointer));
  }

  pointerLeft() {
    this.pointer = null;
    if (!this.byKey) this.point(null);
  }

  /** Keeps outline and tooltip right while the wall or the page scrolls under a resting pointer. */
  repoint() {
    if (this.pointed === null) return;
    if (this.pointer && !this.byKey) this.point(this.tileAt(...this.pointer));
    this.placeTip();
  }

  clicked(event) {
    const index = this.grid ? this.tileAt(event.clientX, event.clientY) : null;
    if (index === null) return;
    if (event.pointerType === "touch") this.point(index); // a finger does not hover, yet wants the tooltip
    this.choose(index);
  }

  focused() {
    if (this.port.matches(":focus-visible")) this.moveCursor(this.cursor ?? this.selected ?? 0);
  }

  keyPressed(event) {
    if (!this.grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const { columns, pitchY } = this.grid;
    const at = this.cursor ?? this.pointed ?? this.selected ?? 0;
    const page = Math.max(1, Math.floor(this.canvas.height / pitchY)) * columns;
    const last = this.header.num - 1;
    const arrows = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const pages = { PageUp: -page, PageDown: page };
    if (event.key in arrows) {
      const next = at + arrows[event.key];
      this.moveCursor(next >= 0 && next <= last ? next : at);
    } else if (event.key in pages) this.moveCursor(Math.max(0, Math.min(last, at + pages[event.key])));
    else if (event.key === "Home" || event.key === "End") this.moveCursor(event.key === "Home" ? 0 : last);
    else if (event.key === "Enter" || event.key === " ") this.choose(at);
    else if (event.key === "Escape") this.point(null);
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has shortcuts of its own
  }

  moveCursor(index) {
    if (!this.grid) return;
    this.byKey = true;
    this.cursor = index;
    this.reveal(index);
    this.point(index);
    this.pointedRing.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.say(index);
  }

  choose(index) {
    this.cursor = index;
    this.select(index);
    this.say(index);
    this.pending = this.report([index]);
  }

  select(index) {
    this.selected = index;
    this.root.dataset.selected = index ?? "";
    if (this.grid) this.placeRings();
    this.describe(this.cursor ?? index ?? 0);
  }

  /** Scrolls within the wall until the tile is seen whole. */
  reveal(index) {
    if (!this.grid) return;
    const { ratio, edge, gap, pitchY, portHeight } = this.grid;
    const top = this.place(index)[1] - edge;
    const bottom = top + pitchY - gap + 2 * edge;
    const now = this.scrolled();
    if (top < now) this.scroller.scrollTop = top / ratio;
    else if (bottom > now + portHeight) this.scroller.scrollTop = (bottom - portHeight) / ratio;
    if (this.scrolled() !== now) this.paint();
  }

  name(index) {
    const text = this.header.hints?.[index] || this.header.labels?.[index] || "";
    return `${index + 1} of ${this.header.num}${text ? `: ${text}` : ""}`;
  }

  describe(index) {
    this.option.setAttribute("aria-label", this.name(index));
    this.option.setAttribute("aria-posinset", index + 1);
    this.option.setAttribute("aria-setsize", this.header.num);
    this.option.setAttribute("aria-selected", index === this.selected);
  }

  say(index) {
    this.describe(index);
    this.live.textContent = this.name(index) + (index === this.selected ? ", selected" : "");
  }
}

/** The text, with an ellipsis where it is wider than the room. */
function shorten(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let length = text.length - 1;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
  return `${text.slice(0, length)}…`;
}

export default (component) => mounted(walls, component, (mount) => new Wall(mount));
