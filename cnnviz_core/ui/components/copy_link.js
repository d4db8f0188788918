// Copies the page's address. It is the browser's own, so it is right also before the server has been told.
const buttons = new WeakMap();
const SAID_MS = 2500;

class CopyLink {
  constructor(root) {
    this.button = root.querySelector("button");
    this.label = root.querySelector("span");
    this.field = root.querySelector("input");
    this.button.addEventListener("click", () => this.copy());
    this.field.addEventListener("blur", () => this.hide());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.button.focus();
    });
  }

  update({ header }) {
    this.button.title = `The address of this screen, to send to a colleague: ${header.of}`;
  }

  async copy() {
    const address = window.location.href;
    try {
      await navigator.clipboard.writeText(address); // not there without https, except on this very machine
    } catch {
      this.offer(address);
      return;
    }
    this.say("Copied");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.say("Copy link"), SAID_MS);
  }

  offer(address) {
    this.field.value = address;
    this.field.hidden = false;
    this.field.focus();
    this.field.select();
    this.say("Copy it here:");
  }

  hide() {
    this.field.hidden = true;
    this.say("Copy link");
  }

  say(words) {
    this.label.textContent = words;
  }

  close() {
    clearTimeout(this.timer);
  }
}

export default (component) => mounted(buttons, component, (root) => new CopyLink(root));
