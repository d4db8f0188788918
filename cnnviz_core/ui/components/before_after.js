// Two pictures on top of each other; the upper one is cut off at the edge.
const views = new WeakMap();

class BeforeAfter {
  constructor(mount) {
    this.root = mount.querySelector(".before-after");
    this.slider = mount.querySelector("input");
    this.images = [".before", ".after"].map((name) => mount.querySelector(name));
    this.names = [".left", ".right"].map((name) => mount.querySelector(name));
    this.shown = [null, null];
    this.slider.oninput = () => this.root.style.setProperty("--at", `${this.slider.value}%`);
  }

  update({ header }) {
    this.root.style.setProperty("--aspect", header.aspect);
    this.slider.setAttribute("aria-label", header.aria);
    header.pictures.forEach(({ token, type, name }, side) => {
      this.names[side].textContent = name;
      this.images[side].alt = name;
      if (this.shown[side] === token) return;
      this.shown[side] = token;
      parts.get(token).then((bytes) => this.put(side, token, new Blob([bytes], { type })));
    });
  }

  /** Shows a picture, unless another one was asked for meanwhile. */
  put(side, token, blob) {
    if (this.shown[side] !== token) return;
    const image = this.images[side];
    const old = image.src;
    image.onload = () => this.images.every((one) => one.complete && one.src) && (this.root.dataset.ready = "");
    image.src = URL.createObjectURL(blob);
    if (old) URL.revokeObjectURL(old);
  }

  close() {
    this.shown = [null, null];
    this.images.forEach((image) => URL.revokeObjectURL(image.src));
  }
}

export default (component) => mounted(views, component, (mount) => new BeforeAfter(mount));
