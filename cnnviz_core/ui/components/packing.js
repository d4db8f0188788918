// Goes before every component's own script.

/** Splits what packing.pack() made into its header and the bytes after it. */
function unpack(data) {
  const length = new DataView(data.buffer, data.byteOffset).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(data.subarray(4, 4 + length)));
  return { header, bytes: data.subarray(4 + length) };
}

/** Parts by token. The scripts of different components are different modules, so what they share hangs on the page. */
const parts = (globalThis[Symbol.for("cnnviz.parts")] ??= {
  held: new Map(), // token -> { bytes, owners }
  waiting: new Map(), // token -> callbacks

  put(token, owner, bytes) {
    const entry = this.held.get(token) ?? { bytes, owners: new Set() };
    entry.owners.add(owner);
    this.held.set(token, entry);
    const callbacks = this.waiting.get(token) ?? [];
    this.waiting.delete(token);
    callbacks.forEach((callback) => callback(bytes));
  },

  drop(token, owner) {
    const entry = this.held.get(token);
    if (entry?.owners.delete(owner) && entry.owners.size === 0) this.held.delete(token);
  },

  get(token) {
    const entry = this.held.get(token);
    if (entry) return Promise.resolve(entry.bytes);
    return new Promise((resolve) => this.waiting.set(token, [...(this.waiting.get(token) ?? []), resolve]));
  },
});

/** The decoded picture, its colours untouched. */
function decode(bytes, type) {
  const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  return createImageBitmap(new Blob([bytes], { type }), exact);
}

/**
 * One view per mounted element, made on the first call and told of every later one. Streamlit may run the clean-up of
 * an overtaken call after the call that overtook it, so only the newest call's clean-up counts.
 */
function mounted(views, component, create) {
  const { parentElement, data, setStateValue } = component;
  if (!views.has(parentElement)) views.set(parentElement, { view: create(parentElement), turn: 0 });
  const entry = views.get(parentElement);
  const turn = ++entry.turn;
  entry.view.update(unpack(data), (position, name = "click") => {
    entry.stamp = Math.max(Date.now(), (entry.stamp ?? 0) + 1);
    setStateValue(name, [...position, entry.stamp]);
    return entry.stamp;
  });
  return () => {
    if (entry.turn !== turn) return;
    entry.view.close();
    views.delete(parentElement);
  };
}

/** Calls back when the screen's pixels per CSS px change: zoom, or a window moved to another screen. */
function onPixelRatio(callback, signal) {
  const watch = () => {
    const query = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    const changed = () => {
      if (signal.aborted) return;
      callback();
      watch();
    };
    query.addEventListener("change", changed, { once: true, signal });
  };
  watch();
}

