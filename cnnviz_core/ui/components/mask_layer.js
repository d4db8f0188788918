// Masks painted over a picture at the screen's resolution: translucent, with an outline that shows on any ground.
// Colours are whole numbers, red in the lowest byte.

const MASK_FILL = 0x73ff5032; // a blue stronger than any sky; every kind of colour vision tells it from what is around
const MASK_LINE = 0xffffffff;
const MASK_CASING = 0xd9000000;
const TRUTH_LINE = 0xff42e4f0;
const TRUTH_GAP = 0xff000000;

/** How many device pixels the line within a mask and the dark one around it are wide. */
function lineWidths() {
  return { within: Math.max(1, Math.round(1.5 * devicePixelRatio)), around: Math.max(1, Math.round(devicePixelRatio)) };
}

/**
 * Writes a mask into the pixels of a box: `fill` within, `line` at its edge, `casing` around it, nothing elsewhere.
 * The picture's own border is no edge.
 *
 * @param pixels - (height, width) as Uint32Array
 * @param inside - (height, width), 1 within the mask
 * @param box - left, top, right, bottom
 * @param look - { fill, line, casing, keep }: with keep, pixels that are neither line nor casing stay as they are
 */
function paintMask(pixels, inside, width, height, [left, top, right, bottom], { fill, line, casing, keep = false }) {
  const { within, around } = lineWidths();
  for (let y = top; y < bottom; y += 1) {
    const row = y * width;
    const upwards = (reach) => (y >= reach ? -reach * width : 0);
    const downwards = (reach) => (y + reach < height ? reach * width : 0);
    const steps = [within, around].map((reach) => [upwards(reach), downwards(reach)]);
    for (let x = left; x < right; x += 1) {
      const i = row + x;
      const own = inside[i];
      const reach = own ? within : around;
      const [up, down] = own ? steps[0] : steps[1];
      const edge =
        inside[i + up] !== own ||
        inside[i + down] !== own ||
        inside[x >= reach ? i - reach : i] !== own ||
        inside[x + reach < width ? i + reach : i] !== own;
      if (edge) pixels[i] = own ? line(x, y) : casing;
      else if (!keep) pixels[i] = own ? fill : 0;
    }
  }
}

const MASK_LOOK = { fill: MASK_FILL, line: () => MASK_LINE, casing: MASK_CASING };

/** Stripes, so that it is told from the mask's own outline by its form, too. */
function truthLook() {
  const length = Math.max(3, Math.round(4 * devicePixelRatio));
  const stripe = (x, y) => (Math.floor((x + y) / length) % 2 ? TRUTH_GAP : TRUTH_LINE);
  return { fill: 0, line: stripe, casing: MASK_CASING };
}

/** For each of `many` places the one of `few` that lies there. */
function nearest(few, many) {
  return Int32Array.from({ length: many }, (_, place) => Math.floor(((place + 0.5) * few) / many));
}

/** The picture at the screen's resolution. Few pixels are shown as such, not blurred into what nobody ever saw. */
function drawPicture(canvas, bitmap, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = width < 4 * devicePixelRatio * bitmap.width;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
}

/** Width and height of a stage in device pixels, null while it is hidden. */
function deviceSize(stage) {
  const box = stage.getBoundingClientRect();
  if (!box.width || !box.height) return null;
  return [box.width, box.height].map((side) => Math.max(1, Math.round(side * devicePixelRatio)));
}

function shapeStage(root, { size: [width, height], maxPx }) {
  root.style.setProperty("--width", `${(maxPx * width) / Math.max(width, height)}px`);
  root.style.setProperty("--aspect", `${width} / ${height}`);
}

function percent(share) {
  const value = 100 * share;
  return `${value > 0 && value < 0.05 ? "< 0.1" : value.toFixed(1)} %`;
}
