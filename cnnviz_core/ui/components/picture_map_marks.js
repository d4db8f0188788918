// What is drawn with the canvas's own commands, in CSS px: the frame with its axes, rings, arrows, stars and names.

class Marks {
  constructor(context, view, theme) {
    Object.assign(this, { context, view, theme });
    this.pills = []; // places of the names that are written already
  }

  /** Draws with the context scaled, and leaves it as it was. */
  scaled(ratio, draw) {
    this.context.save();
    this.context.scale(ratio, ratio);
    draw();
    this.context.restore();
  }

  /** Nothing that `draw` does goes beyond the frame. */
  clipped(draw) {
    const { plot } = this.view;
    this.context.save();
    this.context.beginPath();
    this.context.rect(plot.left, plot.top, plot.width, plot.height);
    this.context.clip();
    draw();
    this.context.restore();
  }

  font(size, weight = 400) {
    this.context.font = `${weight} ${size}px ${this.theme.font || "sans-serif"}`;
  }

  frame(axes, ticks) {
    const { context, theme } = this;
    const { plot, size } = this.view;
    context.lineWidth = 1;
    context.strokeStyle = css(theme.line);
    context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
    context.fillStyle = css(theme.quiet);
    if (ticks) [0, 1].forEach((axis) => this.ticks(axis));
    if (!axes) return;
    this.font(13);
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    context.fillText(shorten(context, axes[0], plot.width), plot.middle[0], size[1] - 6);
    context.translate(13, plot.middle[1]);
    context.rotate(-Math.PI / 2);
    context.fillText(shorten(context, axes[1], plot.height), 0, 0);
  }

  ticks(axis) {
    const { context, view } = this;
    const { plot } = view;
    const step = niceStep((axis ? 60 : 90) / Math.abs(view.scale[axis]));
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const ends = [view.toData(plot.left, plot.bottom)[axis], view.toData(plot.right, plot.top)[axis]];
    const [low, high] = ends.sort((a, b) => a - b);
    this.font(12);
    context.textAlign = axis ? "right" : "center";
    context.textBaseline = axis ? "middle" : "top";
    for (let at = Math.ceil(low / step); at * step <= high; at += 1) {
      const text = trueMinus((at * step).toFixed(digits));
      const place = view.toScreen(at * step, at * step)[axis];
      const line = Math.round(place) + 0.5;
      context.beginPath();
      if (axis) {
        context.fillText(text, plot.left - 8, place);
        context.moveTo(plot.left - 4, line);
        context.lineTo(plot.left, line);
      } else {
        const half = context.measureText(text).width / 2;
        context.fillText(text, Math.min(place, this.view.size[0] - half), plot.bottom + 7);
        context.moveTo(line, plot.bottom);
        context.lineTo(line, plot.bottom + 4);
      }
      context.stroke();
    }
  }

  /** Fills and strokes the path so that it shows on any picture. */
  filled(colour, width) {
    const { context, theme } = this;
    context.lineJoin = "round";
    context.lineWidth = width;
    context.strokeStyle = css(theme.ground);
    context.stroke();
    context.fillStyle = css(colour);
    context.fill();
  }

  outlined(colour, width, margin) {
    const { context, theme } = this;
    context.lineJoin = "round";
    context.lineWidth = width + 2 * margin;
    context.strokeStyle = css(theme.ground);
    context.stroke();
    context.lineWidth = width;
    context.strokeStyle = css(colour);
    context.stroke();
  }

  /** An outline around a dot or a thumbnail. */
  ring([x, y], half, square, width, colour) {
    const { context } = this;
    context.beginPath();
    if (square) context.rect(x - half, y - half, 2 * half, 2 * half);
    else context.arc(x, y, half, 0, 2 * Math.PI);
    this.outlined(colour, width, 1.25);
  }

  /** Points from the frame to what lies beyond it. */
  arrow([x, y], name) {
    const { context, theme } = this;
    const { plot } = this.view;
    const [midX, midY] = plot.middle;
    const angle = Math.atan2(y - midY, x - midX);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const inset = 12;
    const reach = Math.min(
      (plot.width / 2 - inset) / Math.max(1e-9, Math.abs(cos)),
      (plot.height / 2 - inset) / Math.max(1e-9, Math.abs(sin)),
    );
    const tip = [midX + reach * cos, midY + reach * sin];
    context.save();
    context.translate(...tip);
    context.rotate(angle);
    context.beginPath();
    polygon(context, [8, 0, -6, -8, -6, 8], 1);
    this.filled(theme.accent, 3);
    context.restore();
    this.pill(name, tip[0] - 26 * cos, tip[1] - 26 * sin);
  }

  /** A star with its picture above or below. */
  star([x, y], name, bitmap) {
    const { context, theme } = this;
    const side = 52;
    const above = y - side - 22 >= this.view.plot.top;
    if (bitmap) {
      const [left, top] = [x - side / 2, above ? y - side - 16 : y + 16];
      context.fillStyle = css(theme.ground);
      context.fillRect(left - 4, top - 4, side + 8, side + 8);
      context.fillStyle = css(theme.accent);
      context.fillRect(left - 2.5, top - 2.5, side + 5, side + 5);
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, left, top, side, side);
    }
    context.save();
    context.translate(x, y);
    context.beginPath();
    polygon(context, STAR, 11);
    this.filled(theme.accent, 4);
    context.restore();
    this.pill(name, x, bitmap && !above ? y - 24 : y + 24);
  }

  /**
   * A short text on a ground of its own, moved so that it is seen whole and hides no earlier one; at `other` where `y`
   * is beyond the frame.
   */
  pill(text, x, y, other = y) {
    const { context, theme } = this;
    const { plot } = this.view;
    this.font(12, 600);
    const short = shorten(context, text, Math.min(220, plot.width - 24));
    const half = context.measureText(short).width / 2 + 6;
    const fits = y + 12 <= plot.bottom && y - 12 >= plot.top;
    const middle = Math.max(plot.left + half + 3, Math.min(plot.right - half - 3, x));
    const taken = (at) => this.pills.some((pill) => {
      return Math.abs(pill.middle - middle) < pill.half + half && Math.abs(pill.line - at) < 21;
    });
    const wish = Math.max(plot.top + 13, Math.min(plot.bottom - 13, fits ? y : other));
    const line = [0, 22, -22, 44, -44, 66, -66].map((step) => wish + step).find((at) => !taken(at)) ?? wish;
    this.pills.push({ middle, half, line });
    context.beginPath();
    context.roundRect(middle - half, line - 10, 2 * half, 20, 4);
    context.fillStyle = css(theme.ground);
    context.globalAlpha = 0.9;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 1;
    context.strokeStyle = css(theme.line);
    context.stroke();
    context.fillStyle = css(theme.ink);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(short, middle, line + 0.5);
  }

  /** The line that is being drawn around pictures. */
  lasso(line) {
    const { context, theme } = this;
    context.beginPath();
    polygon(context, line, 1);
    context.fillStyle = css(theme.accent);
    context.globalAlpha = 0.12;
    context.fill();
    context.globalAlpha = 1;
    this.outlined(theme.accent, 1.5, 1);
  }
}

const STAR = Array.from({ length: 20 }, (_, i) => {
  const angle = ((i >> 1) * Math.PI) / 5 - Math.PI / 2;
  return ((i >> 1) % 2 ? 0.45 : 1) * (i % 2 ? Math.sin(angle) : Math.cos(angle));
});

function css(colour) {
  return `rgb(${colour.join(" ")})`;
}

/** 1, 2 or 5 times a power of ten, at least this much. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9));
}

/** The text, with an ellipsis where it is wider than the room. */
function shorten(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let length = text.length - 1;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
  return `${text.slice(0, length)}…`;
}
