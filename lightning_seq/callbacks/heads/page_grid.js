// The grid of all heads of a model: layers down, heads across.

const THUMBNAIL = 40; // pixels
const MEAN = -1; // instead of a head: the mean over the heads of the layer

class HeadGrid {
  constructor(pane) {
    const { layers } = pane.view;
    Object.assign(this, { pane, layers, element: pane.find(".grid") });
    this.numbers = [...new Set(layers.flatMap((layer) => layer.heads))].sort((a, b) => a - b);
    this.mean = layers.some((layer) => layer.heads.length > 1);
    this.columns = this.numbers.length + this.mean;
    this.element.style.setProperty("--columns", this.columns);
    this.element.classList.toggle("many", this.columns > 9);
    pane.element.classList.toggle("single", this.columns === 1 && layers.length === 1);
    this.build();
    this.element.addEventListener("keydown", (event) => {
      if (this.step(event.key)) event.preventDefault();
    });
  }

  build() {
    for (const [at, text] of [...this.numbers, ...(this.mean ? ["mean"] : [])].entries()) {
      const title = make("span", "head", String(text));
      title.style.gridColumn = at + 2;
      this.element.append(title);
    }
    this.cells = this.layers.map((layer, at) => {
      const name = make("span", "layer", layer.name.replace(/^layer (?=\d+$)/, "L"));
      name.title = `${layer.name} ${layer.module}`;
      name.style.gridRow = at + 2;
      const heads = [...layer.heads.keys(), ...(layer.heads.length > 1 ? [MEAN] : [])];
      const cells = new Map(heads.map((head) => [head, this.cell(at, head)]));
      this.element.append(name, ...cells.values());
      return cells;
    });
  }

  cell(layerAt, head) {
    const cell = make("button");
    cell.type = "button";
    cell.addEventListener("click", () => this.pane.choose(layerAt, head));
    return cell;
  }

  column(layer, head) {
    return head === MEAN ? this.columns + 1 : this.numbers.indexOf(layer.heads[head]) + 2;
  }

  /** Goes to the next head by an arrow key; false for any other key. */
  step(key) {
    const across = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const down = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (!across && !down) return false;
    const { pane } = this;
    if (across) {
      const heads = [...this.cells[pane.layerAt].keys()]; // the mean comes last
      const next = heads[heads.indexOf(pane.headAt) + across];
      if (next !== undefined) pane.choose(pane.layerAt, next);
    } else {
      const next = Math.min(Math.max(pane.layerAt + down, 0), this.layers.length - 1);
      pane.choose(next, this.sameHead(next));
    }
    this.cells[pane.layerAt].get(pane.headAt).focus();
    return true;
  }

  /** The head of another layer that has the number of the chosen one. */
  sameHead(layerAt) {
    const { layer, headAt } = this.pane;
    return headAt === MEAN ? MEAN : Math.max(this.layers[layerAt].heads.indexOf(layer.heads[headAt]), 0);
  }

  /** Calls `act(cell, layer, head, its place among the layers)` for every cell. */
  each(act) {
    this.cells.forEach((cells, at) => cells.forEach((cell, head) => act(cell, this.layers[at], head, at)));
  }

  /** Frames the chosen head. */
  mark() {
    this.each((cell, _, head, at) => {
      const chosen = at === this.pane.layerAt && head === this.pane.headAt;
      cell.setAttribute("aria-pressed", chosen);
      cell.tabIndex = chosen ? 0 : -1;
    });
  }

  /** Fills the cells: small maps, or a measure. */
  show() {
    const name = this.pane.page.cells;
    const range = name === "maps" ? null : this.pane.page.range(name);
    this.each((cell, layer, head, at) => {
      cell.removeAttribute("style");
      cell.style.gridArea = `${at + 2} / ${this.column(layer, head)}`;
      cell.classList.remove("missing");
      cell.title = this.pane.headName(layer, head);
      if (range) this.number(cell, layer, head, name, range);
      else this.thumbnail(cell, layer, head);
      cell.setAttribute("aria-label", cell.title);
    });
    this.showKey(name, range);
  }

  number(cell, layer, head, name, [low, high]) {
    const value = this.pane.measure(name, layer, head);
    cell.title += `: ${DATA.measures[name].title} ${number(value)}`;
    cell.textContent = this.columns > 9 ? "" : number(value);
    cell.classList.toggle("missing", value === null);
    if (value === null) return;
    const code = Math.round((255 * (value - low)) / (high - low || 1));
    paint(cell, "measure", Math.min(Math.max(code, 0), 255));
  }

  thumbnail(cell, layer, head) {
    const codes = this.pane.codes(layer, head);
    cell.replaceChildren();
    if (codes) cell.append(pixels(...shrink(codes, layer.shape[1], layer.shape[2], THUMBNAIL), this.pane.page.stretch));
  }

  showKey(name, range) {
    const key = this.pane.find(".key");
    key.replaceChildren();
    if (!range) {
      key.append(make("p", "", "Each square is a small map of a head: rows look at columns. Choose one."));
      return;
    }
    legend(key, "measure", range.map((value, at) => [at, number(value)]));
    key.append(make("p", "", `${DATA.measures[name].title}: ${DATA.measures[name].explanation}`));
  }
}
