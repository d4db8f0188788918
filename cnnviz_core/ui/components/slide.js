// One slide: what is said of it, its pictures, and the way onward by buttons, dots and keys.
const slides = new WeakMap();
const ONWARD = { ArrowRight: 1, ArrowLeft: -1, PageDown: 1, PageUp: -1 };
const TAKES_ARROWS = "input, textarea, select, [contenteditable], [role=application], [role=slider], [role=combobox]";

/** A new element with text. */
function made(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

class Slide {
  constructor(parent) {
    this.root = parent.querySelector(".tour");
    this.find = (name) => this.root.querySelector(`.tour-${name}`);
    this.urls = [];
    this.stamp = 0;
    const until = new AbortController();
    this.stop = () => until.abort();
    const listen = (target, event, does) => target.addEventListener(event, does, { signal: until.signal });
    listen(this.find("back"), "click", () => this.go(this.at - 1));
    listen(this.find("next"), "click", () => this.go(this.at + 1));
    listen(this.find("screen"), "click", () => this.fill());
    listen(document, "keydown", (event) => this.press(event));
    listen(document, "fullscreenchange", () => this.name());
    this.find("screen").hidden = !document.fullscreenEnabled;
    this.name();
  }

  update({ header }, tell) {
    this.tell = tell;
    this.header = header;
    if (header.answers >= this.stamp) this.at = header.stop; // else a newer click is on its way
    this.find("large").textContent = header.large;
    this.find("small").textContent = header.small;
    this.dots();
    this.figures();
    this.root.dataset.stop = header.stop;
  }

  close() {
    this.stop();
    this.urls.forEach((url) => URL.revokeObjectURL(url));
  }

  go(to) {
    if (to < 0 || to >= this.header.titles.length || to === this.at) return;
    this.at = to;
    this.stamp = this.tell([to]);
    this.dots();
  }

  press(event) {
    if (!(event.key in ONWARD) || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const taken = event.composedPath().some((part) => part instanceof Element && part.matches(TAKES_ARROWS));
    if (event.key.startsWith("Arrow") && (taken || event.defaultPrevented)) return;
    event.preventDefault();
    this.go(this.at + ONWARD[event.key]);
  }

  fill() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen();
  }

  name() {
    this.find("screen").textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
  }

  dots() {
    const { titles } = this.header;
    const list = this.find("dots");
    if (list.children.length !== titles.length) {
      list.replaceChildren(
        ...titles.map((title, stop) => {
          const item = made("li");
          const dot = made("button");
          Object.assign(dot, { type: "button", title, onclick: () => this.go(stop) });
          dot.setAttribute("aria-label", `${stop + 1}: ${title}`);
          item.append(dot);
          return item;
        }),
      );
    }
    [...list.children].forEach(({ firstChild }, stop) => {
      if (stop === this.at) firstChild.setAttribute("aria-current", "step");
      else firstChild.removeAttribute("aria-current");
    });
    this.find("back").disabled = this.at === 0;
    this.find("next").disabled = this.at === titles.length - 1;
  }

  /** Drawn anew only when they are others: they would blink. */
  figures() {
    const { pictures, bars } = this.header;
    const shown = JSON.stringify([pictures, bars]);
    if (shown === this.shown) return;
    this.shown = shown;
    const old = this.urls;
    this.urls = [];
    const figures = [...pictures.map((one) => this.picture(one)), ...(bars.length ? [this.bars(bars)] : [])];
    const aspects = figures.map((figure) => Number(figure.style.getPropertyValue("--aspect")));
    const room = this.find("figures");
    room.style.setProperty("--num", figures.length);
    room.style.setProperty("--aspects", aspects.reduce((sum, aspect) => sum + aspect, 0));
    room.replaceChildren(...figures);
    this.root.classList.toggle("filled", figures.length > 0);
    old.forEach((url) => URL.revokeObjectURL(url));
  }

  picture({ token, type, size, label }) {
    const figure = made("figure");
    figure.style.setProperty("--aspect", size[0] / size[1]);
    const image = Object.assign(made("img"), { alt: label });
    parts.get(token).then((bytes) => {
      image.src = URL.createObjectURL(new Blob([bytes], { type }));
      this.urls.push(image.src);
    });
    figure.append(image, made("figcaption", label));
    return figure;
  }

  bars(bars) {
    const figure = made("figure");
    figure.style.setProperty("--aspect", 1.1);
    const rows = made("div", "", "tour-bars");
    for (const [label, share] of bars) {
      const row = made("section");
      const words = made("div");
      words.append(made("span", label), made("strong", `${Math.round(100 * share)} %`));
      row.append(words, Object.assign(made("meter"), { value: share, ariaLabel: label }));
      rows.append(row);
    }
    figure.append(rows);
    return figure;
  }
}

export default (component) => mounted(slides, component, (parent) => new Slide(parent));
