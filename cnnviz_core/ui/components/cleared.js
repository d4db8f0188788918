// Tells once when nothing of the run before is on screen any more: Streamlit takes it away when a run has ended.
const watches = new WeakMap();
const LOOK_MS = 50;
const LONGEST_MS = 3000;

class Watch {
  constructor() {
    this.latest = performance.now() + LONGEST_MS;
    this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  update(_, tell) {
    this.tell = tell;
  }

  look() {
    const app = document.querySelector("[data-testid=stApp]");
    if (app?.dataset.testScriptState !== "notRunning" && performance.now() < this.latest) return;
    this.close();
    this.tell([]);
  }

  close() {
    clearInterval(this.timer);
  }
}

export default (component) => mounted(watches, component, () => new Watch());
