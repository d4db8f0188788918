// A picture painted pixel by pixel. Ten thousand dots or thumbnails take a few milliseconds this way, and ten times as
// long with the canvas's own commands. Colours are whole numbers, red in the lowest byte; everything is opaque.

const RED_BLUE = 0xff00ff;
const GREEN = 0x00ff00;
const OPAQUE = 0xff000000;

function packed([red, green, blue]) {
  return (OPAQUE | (blue << 16) | (green << 8) | red) >>> 0;
}

class Pixels {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.clip(0, 0, width, height);
  }

  /** From now on nothing is painted outside of this box. */
  clip(left, top, right, bottom) {
    Object.assign(this, { left, top, right, bottom });
  }

  clear(colour) {
    this.pixels.fill(colour);
    this.behind = false;
  }

  /**
   * From now on, rectangles and tiles only fill what is still empty, so that the uppermost are painted first and what
   * they hide costs next to nothing. Ends with fillRest().
   */
  empty() {
    this.clear(0);
    this.behind = true;
  }

  fillRest(colour) {
    const { pixels } = this;
    for (let i = 0; i < pixels.length; i += 1) if (pixels[i] === 0) pixels[i] = colour;
    this.behind = false;
  }

  rectangle(left, top, right, bottom, colour) {
    const { pixels, width } = this;
    const [x0, x1] = [Math.max(left, this.left), Math.min(right, this.right)];
    const y1 = Math.min(bottom, this.bottom);
    if (x0 >= x1) return;
    for (let y = Math.max(top, this.top); y < y1; y += 1) {
      if (!this.behind) pixels.fill(colour, y * width + x0, y * width + x1);
      else for (let at = y * width + x0; at < y * width + x1; at += 1) if (pixels[at] === 0) pixels[at] = colour;
    }
  }

  /** A rectangle of which `weight` of 64 parts cover what is below. */
  shade(left, top, right, bottom, colour, weight) {
    if (weight >= 64) return this.rectangle(left, top, right, bottom, colour);
    const { pixels, width } = this;
    const rb = (colour & RED_BLUE) * weight;
    const g = (colour & GREEN) * weight;
    const [x0, x1] = [Math.max(left, this.left), Math.min(right, this.right)];
    const y1 = Math.min(bottom, this.bottom);
    for (let y = Math.max(top, this.top); y < y1; y += 1) {
      for (let at = y * width + x0; at < y * width + x1; at += 1) {
        const under_rb = (pixels[at] & RED_BLUE) * (64 - weight);
        const under_g = (pixels[at] & GREEN) * (64 - weight);
        pixels[at] = OPAQUE | (((under_rb + rb) >> 6) & RED_BLUE) | (((under_g + g) >> 6) & GREEN);
      }
    }
  }

  /** A dot around a pixel. */
  dot({ side, red_blue, green, keep }, x, y) {
    const { pixels, width } = this;
    const [left, top] = [x - (side >> 1), y - (side >> 1)];
    const x0 = Math.max(0, this.left - left);
    const x1 = Math.min(side, this.right - left);
    const y1 = Math.min(side, this.bottom - top);
    for (let row = Math.max(0, this.top - top); row < y1; row += 1) {
      const from = row * side;
      const to = (top + row) * width + left;
      for (let column = x0; column < x1; column += 1) {
        const k = keep[from + column];
        if (k === 128) continue;
        const under = pixels[to + column];
        const rb = red_blue[from + column] + ((((under & RED_BLUE) * k) >>> 7) & RED_BLUE);
        const g = green[from + column] + ((((under & GREEN) * k) >>> 7) & GREEN);
        pixels[to + column] = OPAQUE | rb | g;
      }
    }
  }

  /**
   * A tile of an atlas stretched over a box, smoothly; `weight` of 64 parts shine through to the ground colour.
   * Rows and columns of the atlas beyond the tile are not read, so neighbours do not bleed in.
   */
  tile({ pixels: source, width: stride, side }, sourceX, sourceY, left, top, right, bottom, weight, ground) {
    const x0 = Math.max(left, this.left);
    const x1 = Math.min(right, this.right);
    const y1 = Math.min(bottom, this.bottom);
    if (x0 >= x1) return;
    const across = steps(right - left, side);
    const down = steps(bottom - top, side);
    const { pixels, width, behind } = this;
    const ground_rb = (ground & RED_BLUE) * (64 - weight);
    const ground_g = (ground & GREEN) * (64 - weight);
    const exact = right - left === side && bottom - top === side;
    for (let y = Math.max(top, this.top); y < y1; y += 1) {
      const row = down[y - top];
      const fy = row & 63;
      const upper = (sourceY + (row >> 6)) * stride + sourceX;
      const lower = fy ? upper + stride : upper;
      const to = y * width;
      for (let x = x0; x < x1; x += 1) {
        if (behind && pixels[to + x] !== 0) continue;
        let rb, g;
        if (exact) {
          const pixel = source[upper + x - left];
          rb = pixel & RED_BLUE;
          g = pixel & GREEN;
        } else {
          const column = across[x - left];
          const fx = column & 63;
          const at = column >> 6;
          const more = fx ? 1 : 0;
          const a = source[upper + at];
          const b = source[upper + at + more];
          const c = source[lower + at];
          const d = source[lower + at + more];
          const ab_rb = (((a & RED_BLUE) * (64 - fx) + (b & RED_BLUE) * fx) >> 6) & RED_BLUE;
          const cd_rb = (((c & RED_BLUE) * (64 - fx) + (d & RED_BLUE) * fx) >> 6) & RED_BLUE;
          const ab_g = (((a & GREEN) * (64 - fx) + (b & GREEN) * fx) >> 6) & GREEN;
          const cd_g = (((c & GREEN) * (64 - fx) + (d & GREEN) * fx) >> 6) & GREEN;
          rb = ((ab_rb * (64 - fy) + cd_rb * fy) >> 6) & RED_BLUE;
          g = ((ab_g * (64 - fy) + cd_g * fy) >> 6) & GREEN;
        }
        if (weight < 64) {
          rb = ((rb * weight + ground_rb) >> 6) & RED_BLUE;
          g = ((g * weight + ground_g) >> 6) & GREEN;
        }
        pixels[to + x] = OPAQUE | rb | g;
      }
    }
  }
}

const stepsByKey = new Map();

/** For each of `length` pixels over `side` ones: 64 times the place to read, its fraction in the lowest six bits. */
function steps(length, side) {
  const key = length * 4096 + side;
  let table = stepsByKey.get(key);
  if (!table) {
    if (stepsByKey.size > 400) stepsByKey.clear();
    table = Int32Array.from({ length }, (_, i) => {
      const at = ((i + 0.5) * side) / length - 0.5;
      return Math.round(64 * Math.max(0, Math.min(side - 1, at)));
    });
    stepsByKey.set(key, table);
  }
  return table;
}

/** The atlas at its own size and at halves of it, so that a small thumbnail is a mean of pixels and not a choice. */
function pyramid(bitmap, side) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const levels = [{ pixels: new Uint32Array(data.buffer), width: bitmap.width, height: bitmap.height, side }];
  while (levels.at(-1).side % 2 === 0 && levels.at(-1).side > 4) levels.push(halved(levels.at(-1)));
  return levels;
}

function halved({ pixels, width, height, side }) {
  const half = { width: width >> 1, height: height >> 1, side: side >> 1 };
  half.pixels = new Uint32Array(half.width * half.height);
  for (let y = 0, to = 0; y < half.height; y += 1) {
    for (let x = 0; x < half.width; x += 1, to += 1) {
      const at = 2 * y * width + 2 * x;
      const [a, b, c, d] = [pixels[at], pixels[at + 1], pixels[at + width], pixels[at + width + 1]];
      const rb = (a & RED_BLUE) + (b & RED_BLUE) + (c & RED_BLUE) + (d & RED_BLUE) + 0x020002;
      const g = (a & GREEN) + (b & GREEN) + (c & GREEN) + (d & GREEN) + 0x000200;
      half.pixels[to] = OPAQUE | ((rb >> 2) & RED_BLUE) | ((g >> 2) & GREEN);
    }
  }
  return half;
}

/** One tile of an atlas by itself. */
function cut({ pixels, width, side }, column, row) {
  const image = new ImageData(side, side);
  const target = new Uint32Array(image.data.buffer);
  const from = row * side * width + column * side;
  for (let y = 0; y < side; y += 1) target.set(pixels.subarray(from + y * width, from + y * width + side), y * side);
  return image;
}

const SHAPES = [
  (path, r) => path.arc(0, 0, r, 0, 2 * Math.PI),
  (path, r) => path.rect(-0.88 * r, -0.88 * r, 1.76 * r, 1.76 * r),
  (path, r) => polygon(path, [0, -1.25, 1.15, 0.8, -1.15, 0.8], r),
  (path, r) => polygon(path, [0, -1.3, 1.3, 0, 0, 1.3, -1.3, 0], r),
  (path, r) => {
    const [a, b] = [1.2, 0.45];
    polygon(path, [-b, -a, b, -a, b, -b, a, -b, a, b, b, b, b, a, -b, a, -b, b, -a, b, -a, -b, -b, -b], r);
  },
];

function polygon(path, corners, r) {
  for (let i = 0; i < corners.length; i += 2) path.lineTo(r * corners[i], r * corners[i + 1]);
  path.closePath();
}

function shapePath(shape, r) {
  const path = new Path2D();
  SHAPES[shape](path, r);
  return path;
}

/** How much of each pixel a shape covers, 0..1, alone and with its margin. */
function coverage(shape, r, margin) {
  const side = 2 * Math.ceil(1.3 * r + margin) + 1;
  const cover = (line) => {
    const context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
    context.translate(side / 2, side / 2);
    context.lineWidth = line;
    context.lineJoin = "round";
    context.fill(shapePath(shape, r));
    if (line) context.stroke(shapePath(shape, r));
    const { data } = context.getImageData(0, 0, side, side);
    return Float32Array.from({ length: side * side }, (_, i) => data[4 * i + 3] / 255);
  };
  return { side, inner: cover(0), outer: cover(2 * margin) };
}

/** A dot ready to be painted: a colour with a margin in the ground's, both `strength` opaque. */
function dotOf({ side, inner, outer }, colour, ground, strength) {
  const num = side * side;
  const dot = { side, red_blue: new Uint32Array(num), green: new Uint32Array(num), keep: new Uint8Array(num) };
  for (let i = 0; i < num; i += 1) {
    const own = inner[i] * strength;
    const keep = Math.round(128 * (1 - own) * (1 - (outer[i] - inner[i] * outer[i]) * strength));
    const rest = Math.max(0, 1 - keep / 128 - own);
    const [red, green, blue] = colour.map((part, c) => Math.floor((1 - keep / 128) * mix(part, ground[c], own, rest)));
    dot.keep[i] = keep;
    dot.red_blue[i] = red | (blue << 16);
    dot.green[i] = green << 8;
  }
  return dot;
}

/** The mean of two numbers, weighted. */
function mix(a, b, weightA, weightB) {
  return weightA + weightB > 0 ? (a * weightA + b * weightB) / (weightA + weightB) : a;
}
