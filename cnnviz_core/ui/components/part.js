// Holds one part for the views that ask for it; shows nothing.
const holders = new WeakMap();

class Part {
  update({ header, bytes }) {
    if (this.token === header.token) return;
    this.close();
    this.token = header.token;
    parts.put(this.token, this, bytes);
  }

  close() {
    parts.drop(this.token, this);
  }
}

export default (component) => mounted(holders, component, () => new Part());
