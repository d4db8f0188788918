// Cells of two pictures that belong together: a line over the gap, or the same number at both ends.

class Lines {
  constructor(canvas) {
    this.canvas = canvas;
    this.drawn = null;
  }

  size([width, height], ratio) {
    this.wide = [width, height].map((length) => Math.round(length * ratio));
    this.ratio = ratio;
    this.drawn = null;
  }

  /**
   * @param lines - [picture, row, column, picture, row, column, similarity], strongest first
   * @param faint - whether something else is looked at
   * @param pointed - the origin that is pointed at, whose lines stand out
   * @param pinned - the origin whose cells are outlined anyway
   */
  draw(lines, panes, { faint, pointed, pinned }) {
    const { canvas, ratio } = this;
    if (!this.wide) return;
    const ends = lines.map((line) => [line.slice(0, 3), line.slice(3, 6)].map((end) => this.endOf(end, panes)));
    const of = (origin, end) => end.picture === origin?.picture && origin.cells.includes(end.cell);
    const standOut = ends.map((pair) => pair.some((end) => of(pointed, end)) && !pair.every((end) => of(pinned, end)));
    ends.flat().forEach((end) => (end.outlined = of(pinned, end)));
    const look = JSON.stringify([lines, ends, faint, standOut]);
    if (look === this.drawn) return;
    this.drawn = look;
    canvas.hidden = lines.length === 0;
    [canvas.width, canvas.height] = lines.length ? this.wide : [0, 0];
    if (!lines.length) return;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.lineCap = "round";
    const strengths = strengthsOf(lines.map((line) => line[6]));
    const order = lines.map((_, i) => i).sort((i, j) => standOut[i] - standOut[j] || j - i); // the strongest on top
    const apart = [];
    for (const i of order) {
      const [start, end] = ends[i];
      const strength = standOut[i] ? 1 : strengths[i];
      context.globalAlpha = standOut[i] ? 1 : (faint ? 0.25 : 1) * (0.4 + 0.6 * strength);
      if (neighbouring(start, end)) drawLine(context, start, end, 1.25 + 1.25 * strength);
      else apart.push(i);
    }
    context.globalAlpha = faint ? 0.4 : 1;
    drawNumbers(context, apart, ends, getComputedStyle(canvas).fontFamily);
  }

  endOf([picture, row, column], panes) {
    const pane = panes[picture];
    const cell = row * pane.info.cells[1] + column;
    const [x, y] = pane.middleOf(cell);
    return { picture, cell, x: x + pane.left, y: y + pane.top, top: pane.top };
  }
}

/** Side by side, with nothing between. */
function neighbouring(start, end) {
  return Math.abs(start.picture - end.picture) === 1 && Math.abs(start.top - end.top) < 2;
}

/** From 0 to 1 between the least and the greatest similarity. */
function strengthsOf(similarities) {
  const [least, most] = [Math.min(...similarities), Math.max(...similarities)];
  return similarities.map((value) => (most > least ? (value - least) / (most - least) : 1));
}

function drawLine(context, start, end, width) {
  const path = new Path2D();
  path.moveTo(start.x, start.y);
  path.lineTo(end.x, end.y);
  const dots = new Path2D();
  for (const { x, y } of [start, end].filter(({ outlined }) => !outlined)) {
    dots.moveTo(x, y);
    dots.arc(x, y, width + 1, 0, 2 * Math.PI);
  }
  for (const [ink, more] of [
    ["#000", 1.75],
    ["#fff", 0],
  ]) {
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = width + more;
    context.stroke(path);
    context.lineWidth = more;
    if (more) context.stroke(dots);
    context.fill(dots);
  }
}

/** At both ends the line's number, counted from 1 for each two pictures; those of one cell together. */
function drawNumbers(context, chosen, ends, font) {
  const cells = new Map();
  const counts = {};
  for (const i of [...chosen].sort((a, b) => a - b)) {
    const [start, end] = ends[i];
    const pair = `${start.picture} ${end.picture}`;
    const number = (counts[pair] = (counts[pair] ?? 0) + 1);
    for (const at of [start, end].filter(({ outlined }) => !outlined)) {
      const id = `${at.picture} ${at.cell}`;
      const numbers = cells.get(id)?.numbers ?? [];
      cells.set(id, { ...at, numbers: numbers.includes(number) ? numbers : [...numbers, number] });
    }
  }
  context.font = `600 11px ${font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const { x, y, numbers } of [...cells.values()].reverse()) {
    const text = numbers.join(" ");
    const half = Math.max(8, context.measureText(text).width / 2 + 4);
    context.beginPath();
    context.roundRect(x - half, y - 8, 2 * half, 16, 8);
    context.fillStyle = "#000";
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5;
    context.fill();
    context.stroke();
    context.fillStyle = "#fff";
    context.fillText(text, x, y + 0.5);
  }
}
