// What the colours mean: labels to press, or a colour bar.

class Legend {
  constructor(mount, changed) {
    const find = (selector) => mount.querySelector(selector);
    this.changed = changed;
    this.root = find(".legend");
    this.title = find(".legend > .title");
    this.labels = find(".labels");
    this.scale = find(".scale");
    this.mark = find(".mark");
    this.seams = find(".seams");
    this.only = new Set(); // labels that are pressed
    this.colouring = null;
  }

  show(colouring, seams) {
    this.root.hidden = !colouring && !seams;
    this.title.hidden = !colouring;
    this.labels.hidden = !colouring?.labels.length;
    this.scale.hidden = !colouring?.values;
    this.seams.hidden = !seams;
    if (seams) drawBar(this.seams.querySelector("canvas"), seams.lut);
    if (colouring === this.colouring) return;
    this.colouring = colouring;
    this.build();
    if (colouring?.values) this.drawScale();
  }

  /** One button per label. */
  build() {
    const { labels = [], title = "", index } = this.colouring ?? {};
    // Not all of many are in view.
    this.title.textContent = title + (labels.length > 12 ? ` (${labels.length})` : "");
    const counts = new Uint32Array(labels.length);
    if (labels.length) index.forEach((row) => (counts[row] += 1));
    const buttons = labels.map((label, row) => {
      const button = document.createElement("button");
      const [name, count] = [document.createElement("span"), document.createElement("i")];
      button.type = "button";
      button.title = `Only ${label}; with Shift several`;
      name.textContent = label;
      count.textContent = counts[row].toLocaleString("en");
      button.append(this.sample(row), name, count);
      button.addEventListener("click", (event) => this.press(row, event.shiftKey || event.ctrlKey || event.metaKey));
      return button;
    });
    this.labels.setAttribute("aria-label", title);
    this.labels.replaceChildren(...buttons);
    this.press(null);
  }

  /** A label's dot, large. */
  sample(row) {
    const { palette, shapes } = this.colouring;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 32;
    const context = canvas.getContext("2d");
    context.translate(16, 16);
    context.fillStyle = css([...palette.subarray(3 * row, 3 * row + 3)]);
    context.fill(shapePath(shapes[row], 10));
    return canvas;
  }

  /** Takes a label alone or gives it up; several of them with Shift. null: none. */
  press(row, several = false) {
    if (row === null) this.only = new Set();
    else if (!several) this.only = new Set(this.only.size === 1 && this.only.has(row) ? [] : [row]);
    else if (!this.only.delete(row)) this.only.add(row);
    this.restore([...this.only]);
    if (row !== null) this.changed();
  }

  restore(rows) {
    this.only = new Set(rows);
    this.labels.classList.toggle("some", rows.length > 0);
    [...this.labels.children].forEach((button, row) => button.setAttribute("aria-pressed", this.only.has(row)));
  }

  names() {
    return [...this.only].map((row) => this.colouring.labels[row]);
  }

  drawScale() {
    const { palette, low, high, unit } = this.colouring;
    drawBar(this.scale.querySelector("canvas"), palette);
    const texts = [low, (low + high) / 2, high].map((value) => format(value, high - low));
    if (unit) texts[2] += ` ${unit}`;
    this.scale.querySelectorAll("span").forEach((span, i) => (span.textContent = texts[i]));
  }

  /** Shows where a point belongs; null: none. */
  point(index) {
    if (!this.colouring) return;
    const { index: rows, values, low, high } = this.colouring;
    this.here?.classList.remove("here");
    this.here = index === null ? null : this.labels.children[rows[index]];
    this.here?.classList.add("here");
    const value = index !== null && values ? values[index] : NaN;
    this.mark.hidden = !Number.isFinite(value);
    if (this.mark.hidden) return;
    const share = Math.max(0, Math.min(1, (value - low) / (high - low)));
    this.mark.style.left = `${100 * share}%`;
  }
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
  if (range >= 1e5 || range < 1e-3) return trueMinus(value.toExponential(1));
  const digits = Math.max(0, Math.min(4, 2 - Math.floor(Math.log10(range) + 1e-9)));
  const text = value.toFixed(digits);
  return trueMinus(text.includes(".") ? text.replace(/\.?0+$/, "") : text);
}
