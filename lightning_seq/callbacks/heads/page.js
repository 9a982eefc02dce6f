// The page: all models, and what they share.

const DATA = JSON.parse(document.getElementById("data").textContent);

class Page {
  constructor() {
    this.direction = "at"; // or "by": a token is looked at by others
    this.cells = "maps"; // or the name of a measure
    this.stretch = false;
    this.active = null; // the token that is pointed at: { pane, index }
    this.pinned = false;
    this.cross = null; // the cell of a map that is pointed at: { pane, row, column }
    const reference = DATA.views[0].tokens.join("");
    this.panes = DATA.views.map((view) => new Pane(view, reference, this));
    document.getElementById("panes").append(...this.panes.map((pane) => pane.element));
    this.last = this.panes[0]; // which pane the arrow keys move in
  }

  start() {
    document.getElementById("note").textContent = DATA.note;
    this.listen();
    this.panes.forEach((pane) => pane.choose(0, 0));
    const first = this.panes.find((pane) => pane.ownTokens);
    if (first) this.active = { pane: first, index: Math.min(first.tokens.length - 1, 40) }; // in sight, with a past
    this.redraw();
  }

  listen() {
    const tools = document.getElementById("tools");
    for (const [name, measure] of Object.entries(DATA.measures)) {
      if (!DATA.views.some((view) => view.layers.some((layer) => name in layer.measures))) continue;
      const option = new Option(measure.title, name);
      option.title = measure.explanation;
      tools.elements.cells.add(option);
    }
    tools.addEventListener("submit", (event) => event.preventDefault());
    tools.addEventListener("change", () => {
      this.direction = tools.elements.direction.value;
      this.cells = tools.elements.cells.value;
      this.stretch = tools.elements.stretch.checked;
      this.cross = null;
      this.redraw();
    });
    for (const pane of this.panes) {
      for (const type of ["pointerdown", "focusin"]) pane.element.addEventListener(type, () => (this.last = pane));
      pane.find("canvas").addEventListener("pointerleave", () => this.leaveMap());
    }
    document.addEventListener("keydown", (event) => this.key(event));
    DARK.addEventListener("change", () => this.redraw());
    new ResizeObserver(() => this.refresh()).observe(document.getElementById("panes"));
  }

  key(event) {
    if (event.key === "Escape") this.release();
    const nowhere = event.target === document.body;
    if (nowhere && ["ArrowLeft", "ArrowRight"].includes(event.key) && this.last.grid.step(event.key)) event.preventDefault();
  }

  /** The pointer is at a token; one that is pinned stays. */
  point(pane, index, leaveMap = true) {
    if (leaveMap) this.cross = this.pinned ? this.crossing(pane, index) : null;
    if (!this.pinned) this.active = { pane, index };
    this.refresh();
  }

  /** The cell between the pinned token and another of the same text. */
  crossing(pane, index) {
    const pinned = this.indexIn(pane);
    if (pinned === null || pinned === index) return null;
    return this.direction === "by" ? { pane, row: index, column: pinned } : { pane, row: pinned, column: index };
  }

  pin(pane, index) {
    const again = this.pinned && this.active?.pane === pane && this.active.index === index;
    this.active = { pane, index };
    this.pinned = !again;
    this.refresh();
  }

  release() {
    [this.pinned, this.active, this.cross] = [false, null, null];
    this.refresh();
  }

  leaveMap() {
    this.cross = null;
    this.refresh();
  }

  /** The tokens of a pane at the place of the text that is pointed at in another. */
  linkedIn(pane) {
    const { active } = this;
    if (!active || active.pane === pane || !active.pane.ownTokens || !pane.ownTokens) return new Set();
    const there = active.pane.spans[active.index];
    if (!there) return new Set();
    return new Set(pane.spans.flatMap((own, at) => (own && own[0] <= there[1] && own[1] >= there[0] ? [at] : [])));
  }

  /** The token of a pane whose attention is shown: the last at that place, for after it both have read the same. */
  indexIn(pane) {
    if (this.active?.pane === pane) return this.active.index;
    const linked = [...this.linkedIn(pane)];
    return linked.length ? linked[linked.length - 1] : null;
  }

  /** The smallest and the largest value that the grid's colours stand for. */
  range(name) {
    const { most } = DATA.measures[name];
    if (most !== null) return [0, most];
    const values = DATA.views.flatMap((view) => view.layers.flatMap((layer) => layer.measures[name] ?? []));
    const known = values.filter((value) => value !== null);
    return [Math.min(0, ...known), Math.max(0, ...known)];
  }

  refresh() {
    this.panes.forEach((pane) => pane.show());
  }

  /** All again: the colours or what is shown by them have changed. */
  redraw() {
    for (const pane of this.panes) {
      pane.grid.show();
      pane.showMap();
    }
    this.refresh();
  }
}

function problem(text) {
  const element = document.getElementById("problem");
  element.textContent = text;
  element.hidden = false;
}

async function unpack(layer) {
  const bytes = Uint8Array.from(atob(layer.maps), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  layer.codes = new Uint8Array(await new Response(stream).arrayBuffer());
  layer.maps = null;
}

const page = new Page();
page.start();

async function fill() {
  if (typeof DecompressionStream === "undefined") {
    problem("This browser cannot unpack the maps: it takes Chrome 80, Firefox 113, Safari 16.4 or a later one.");
    return;
  }
  await Promise.all(DATA.views.flatMap((view) => view.layers.map(unpack)));
  page.redraw();
}

fill()
  .catch((error) => problem(`The maps cannot be unpacked: ${error}`))
  .finally(() => (document.body.dataset.ready = "yes"));
