// Points in the plane: which are near, which lie inside a drawn line, which have room for a thumbnail.

/** Points in buckets, so that looking around a place reads few of them. */
class Plane {
  constructor(xy) {
    this.xy = xy;
    this.num = xy.length / 2;
    [this.left, this.bottom, this.right, this.top] = bounds(xy);
    this.side = Math.max(1, Math.min(256, Math.round(Math.sqrt(this.num / 2))));
    const { num, side } = this;
    this.starts = new Int32Array(side * side + 1);
    this.order = new Int32Array(num);
    const buckets = Int32Array.from({ length: num }, (_, i) => this.row(xy[2 * i + 1]) * side + this.column(xy[2 * i]));
    for (const bucket of buckets) this.starts[bucket + 1] += 1;
    for (let i = 0; i < side * side; i += 1) this.starts[i + 1] += this.starts[i];
    const next = this.starts.slice();
    buckets.forEach((bucket, i) => (this.order[next[bucket]++] = i));
  }

  column(x) {
    return this.bucket(x, this.left, this.right);
  }

  row(y) {
    return this.bucket(y, this.bottom, this.top);
  }

  bucket(value, low, high) {
    const at = Math.floor(((value - low) / (high - low || 1)) * this.side);
    return Math.max(0, Math.min(this.side - 1, at));
  }

  /** The point with the least cost among those in a box around a place; null where no cost is finite. */
  nearest(x, y, reachX, reachY, cost) {
    let best = null;
    let least = Infinity;
    const from = this.column(x - reachX);
    const to = this.column(x + reachX);
    const last = this.row(y + reachY);
    for (let row = this.row(y - reachY); row <= last; row += 1) {
      for (let at = this.starts[row * this.side + from]; at < this.starts[row * this.side + to + 1]; at += 1) {
        const now = cost(this.order[at]);
        if (now < least) {
          least = now;
          best = this.order[at];
        }
      }
    }
    return best;
  }
}

/** Left, bottom, right, top of x and y in turn. */
function bounds(xy) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < xy.length; i += 2) {
    box[0] = Math.min(box[0], xy[i]);
    box[1] = Math.min(box[1], xy[i + 1]);
    box[2] = Math.max(box[2], xy[i]);
    box[3] = Math.max(box[3], xy[i + 1]);
  }
  return box;
}

/** Whether a place lies inside a closed line of x and y in turn, by the even-odd rule. */
function encloses(line, x, y) {
  let inside = false;
  for (let i = 0, j = line.length - 2; i < line.length; j = i, i += 2) {
    if (line[i + 1] > y === line[j + 1] > y) continue;
    if (x < line[i] + ((y - line[i + 1]) / (line[j + 1] - line[i + 1])) * (line[j] - line[i])) inside = !inside;
  }
  return inside;
}

/**
 * Which points have room for a square of a given side without overlap. A point that has room keeps it when there is
 * more, so that zooming in only adds thumbnails.
 */
class Thinning {
  /** Places at zoom 1, the side wanted there, and one flag per point that may have a thumbnail. */
  constructor(xs, ys, widest, candidates) {
    Object.assign(this, { xs, ys, widest });
    this.levels = [];
    // Pictures of one folder follow one another; taken in turn they would crowd the others out.
    const order = Int32Array.from(xs.keys()).filter((i) => candidates[i]);
    this.order = order.sort((a, b) => scramble(a) - scramble(b));
  }

  /** One flag per point. */
  shown(side) {
    const level = Math.max(0, Math.floor(4 * Math.log2(this.widest / side)));
    while (this.levels.length <= level) this.levels.push(this.thin(this.widest * 2 ** (-this.levels.length / 4)));
    return this.levels[level];
  }

  thin(side) {
    const { xs, ys, order } = this;
    const coarser = this.levels.at(-1);
    const flags = new Uint8Array(xs.length);
    const heads = new Map();
    const next = new Int32Array(xs.length);
    const name = (column, row) => column * 1e6 + row;
    const place = (i) => {
      const bucket = name(Math.floor(xs[i] / side), Math.floor(ys[i] / side));
      next[i] = heads.get(bucket) ?? -1;
      heads.set(bucket, i);
      flags[i] = 1;
    };
    const free = (i) => {
      const column = Math.floor(xs[i] / side);
      const row = Math.floor(ys[i] / side);
      for (let c = column - 1; c <= column + 1; c += 1) {
        for (let r = row - 1; r <= row + 1; r += 1) {
          for (let j = heads.get(name(c, r)) ?? -1; j >= 0; j = next[j]) {
            if (Math.abs(xs[i] - xs[j]) < side && Math.abs(ys[i] - ys[j]) < side) return false;
          }
        }
      }
      return true;
    };
    if (coarser) for (const i of order) if (coarser[i]) place(i);
    for (const i of order) if (!flags[i] && free(i)) place(i);
    return flags;
  }
}

/** A fixed number without pattern for each whole one. */
function scramble(i) {
  return Math.imul(Math.imul(i + 1, 0x9e3779b1) ^ 0x5bd1e995, 0x85ebca6b) >>> 0;
}
