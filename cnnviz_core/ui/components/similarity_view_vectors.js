// What cells have in common: dot products of vectors of length one, and their values between the cells.

/** Scales and whole numbers as the server packs them, multiplied out: (cells * dims) floats. */
function toVectors(bytes, num, bits) {
  const scales = new Float32Array(bytes.slice(0, 4 * num).buffer); // a copy starts at a multiple of four
  const Whole = bits === 8 ? Int8Array : Int16Array;
  const values = new Whole(bytes.slice(4 * num).buffer);
  const dims = values.length / num;
  const vectors = Float32Array.from(values);
  for (let cell = 0, at = 0; cell < num; cell += 1) {
    for (const end = at + dims; at < end; at += 1) vectors[at] *= scales[cell];
  }
  return { vectors, num, dims };
}

function vectorOf({ vectors, dims }, cell) {
  return vectors.subarray(cell * dims, (cell + 1) * dims);
}

function meanVector(source, cells) {
  if (cells.length === 1) return vectorOf(source, cells[0]);
  const mean = new Float32Array(source.dims);
  for (const cell of cells) {
    const vector = vectorOf(source, cell);
    for (let i = 0; i < mean.length; i += 1) mean[i] += vector[i] / cells.length;
  }
  return mean;
}

/** The dot product of one vector with each cell's. */
function dots({ vectors, num, dims }, other) {
  const out = new Float32Array(num);
  const vector = Float64Array.from(other); // not to be widened for every product
  const even = dims - (dims % 4);
  for (let cell = 0, at = 0; cell < num; cell += 1) {
    let i = 0;
    let a = 0; // four sums that do not wait for one another
    let b = 0;
    let c = 0;
    let d = 0;
    for (; i < even; i += 4, at += 4) {
      a += vectors[at] * vector[i];
      b += vectors[at + 1] * vector[i + 1];
      c += vectors[at + 2] * vector[i + 2];
      d += vectors[at + 3] * vector[i + 3];
    }
    for (; i < dims; i += 1, at += 1) a += vectors[at] * vector[i];
    out[cell] = a + b + (c + d);
  }
  return out;
}

/** What the similarity is measured to: cells of one picture. What was found once is kept. */
class Origin {
  /** @param before - an origin with all but the last of these cells, whose maps save work */
  constructor(picture, cells, before = null) {
    this.picture = picture;
    this.cells = cells;
    this.before = before;
    this.maps = [];
    this.exact = []; // by picture, from the server
  }

  with(cell) {
    return this.cells.includes(cell) ? this : new Origin(this.picture, [...this.cells, cell], this);
  }

  same(other) {
    const sorted = ({ cells }) => [...cells].sort((a, b) => a - b).join();
    return this.picture === other?.picture && sorted(this) === sorted(other);
  }

  /** Similarity of all cells of one picture. */
  map(all, picture, join) {
    return this.exact[picture] ?? (this.maps[picture] ??= this.joined(all, picture, join));
  }

  joined(all, picture, join) {
    const [source, target] = [all[this.picture], all[picture]];
    if (join === "mean" || this.cells.length === 1) return dots(target, meanVector(source, this.cells));
    let done = this.before;
    while (done && !done.maps[picture]) done = done.before;
    const best = done?.maps[picture].slice() ?? new Float32Array(target.num).fill(-Infinity);
    for (const cell of this.cells.slice(done?.cells.length ?? 0)) {
      dots(target, vectorOf(source, cell)).forEach((value, at) => value > best[at] && (best[at] = value));
    }
    return best;
  }
}

function indexOfMost(values) {
  let most = 0;
  for (let i = 1; i < values.length; i += 1) if (values[i] > values[most] || values[most] !== values[most]) most = i;
  return most;
}

/** Bilinear interpolation of cells, each of them `times` wide and high; flat beyond the outer centres. */
class Enlarger {
  constructor(rows, columns, times) {
    this.columns = columns;
    [this.height, this.width] = [rows * times, columns * times];
    [this.down, this.across] = [neighbours(rows, times), neighbours(columns, times)];
    this.wide = new Float32Array(rows * this.width);
    this.values = new Float32Array(this.height * this.width);
  }

  enlarge(few) {
    const { wide, values, width, columns } = this;
    const mix = (share, before, after) => (share ? before * (1 - share) + after * share : before); // it may be NaN
    const { before, after, share } = this.across;
    for (let row = 0, at = 0; at < wide.length; row += columns) {
      for (let x = 0; x < width; x += 1, at += 1) wide[at] = mix(share[x], few[row + before[x]], few[row + after[x]]);
    }
    for (let y = 0, at = 0; y < this.height; y += 1) {
      const [upper, lower, part] = [this.down.before[y] * width, this.down.after[y] * width, this.down.share[y]];
      for (let x = 0; x < width; x += 1, at += 1) values[at] = mix(part, wide[upper + x], wide[lower + x]);
    }
    return values;
  }
}

/** For each of the places: the cell before it, the cell after it, and the share of the latter. */
function neighbours(num, times) {
  const exact = Float32Array.from({ length: num * times }, (_, place) =>
    Math.max(0, Math.min(num - 1, (place + 0.5) / times - 0.5)),
  );
  const before = Int32Array.from(exact, Math.floor);
  return { before, after: Int32Array.from(exact, Math.ceil), share: exact.map((place, i) => place - before[i]) };
}
