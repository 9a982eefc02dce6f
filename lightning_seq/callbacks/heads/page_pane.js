// One model: its heads, its text and what is known of the chosen head.

const SALIENCY =
  "Saliency: the share of each earlier token in the gradient of the prediction. Row i is the prediction made after token i.";
const FOREIGN = "This layer looks at something else than its own tokens: places are numbers, and the text is not marked.";

class Pane {
  constructor(view, reference, page) {
    Object.assign(this, { view, page, layerAt: 0, headAt: 0 });
    this.spans = spans(view.tokens, reference);
    this.element = document.getElementById("pane").content.cloneNode(true).querySelector(".pane");
    this.element.querySelector("h2").textContent = view.name;
    this.element.setAttribute("aria-label", view.name);
    this.map = new HeadMap(this.find("canvas"), (row, column, clicked) => this.pointMap(row, column, clicked));
    this.buildSelects();
    this.grid = new HeadGrid(this);
    this.detail = new TokenDetail(this);
    this.buildStrip();
  }

  find = (selector) => this.element.querySelector(selector);

  get layer() {
    return this.view.layers[this.layerAt];
  }

  /** Whether rows and columns of the chosen layer are the tokens of the text. */
  get ownTokens() {
    return this.layer.shape[1] === this.view.tokens.length && this.layer.shape[2] === this.view.tokens.length;
  }

  // ---- what the maps hold

  /** The codes of a head, row by row; null while they are being unpacked. */
  codes(layer = this.layer, head = this.headAt) {
    const size = layer.shape[1] * layer.shape[2];
    if (!layer.codes) return null;
    if (head !== MEAN) return layer.codes.subarray(head * size, (head + 1) * size);
    layer.mean ??= Uint8Array.from({ length: size }, (_, at) => {
      let sum = 0;
      for (let k = 0; k < layer.shape[0]; k++) sum += SHARES[layer.codes[k * size + at]];
      return Math.max(Math.round(255 * Math.sqrt(sum / layer.shape[0])), sum > 0);
    });
    return layer.mean;
  }

  share(row, column) {
    return SHARES[this.codes()[row * this.layer.shape[2] + column]];
  }

  /** The codes of all that a token looks at, or that looks at it; null where there is no such token. */
  values(index) {
    const [, rows, columns] = this.layer.shape;
    const codes = this.codes();
    const by = this.page.direction === "by";
    if (index === null || !codes || index >= (by ? columns : rows)) return null;
    if (!by) return codes.subarray(index * columns, (index + 1) * columns);
    return Uint8Array.from({ length: rows }, (_, row) => codes[row * columns + index]);
  }

  measure(name, layer = this.layer, head = this.headAt) {
    const values = layer.measures[name];
    if (!values || head !== MEAN) return values ? values[head] : null;
    const known = values.filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  headName(layer, head) {
    if (isSaliency(layer)) return layer.name;
    return `${layer.name}, ${head === MEAN ? "mean of all heads" : `head ${layer.heads[head]}`}`;
  }

  /** The name of a place in the text, or in what else is looked at. */
  place(index) {
    return this.ownTokens ? `token ${index} ‘${written(this.view.tokens[index])}’` : `place ${index}`;
  }

  // ---- building, once

  buildSelects() {
    const layers = this.find("select.layer");
    this.view.layers.forEach((layer, at) => layers.add(new Option(layer.name, at)));
    layers.addEventListener("change", () => this.choose(Number(layers.value), this.headAt));
    const heads = this.find("select.head");
    heads.addEventListener("change", () => this.choose(this.layerAt, Number(heads.value)));
  }

  buildStrip() {
    const strip = this.find(".strip");
    strip.setAttribute("aria-label", `Text for ${this.view.name}, token by token`);
    strip.classList.toggle("numbers", this.view.tokens.every((token) => /^\d+$/.test(token)));
    this.tokens = this.view.tokens.map((text, index) => {
      const token = make("span", "token");
      token.setAttribute("role", "option");
      token.dataset.index = index;
      token.tabIndex = index ? -1 : 0;
      write(token, text);
      if (/^\s/.test(text)) strip.append(make("wbr"));
      strip.append(token);
      if (/\s$/.test(text) || strip.classList.contains("numbers")) strip.append(make("wbr"));
      return token;
    });
    const at = (event) => event.target.closest?.(".token")?.dataset.index;
    const hear = (type, act) =>
      strip.addEventListener(type, (event) => at(event) !== undefined && this.ownTokens && act(Number(at(event)), event));
    hear("pointerover", (index) => this.page.point(this, index));
    hear("focusin", (index) => this.page.point(this, index));
    hear("click", (index) => this.page.pin(this, index));
    hear("keydown", (index, event) => this.stepToken(index, event));
  }

  // ---- moving about

  stepToken(index, event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 }[event.key];
    if (by !== undefined) {
      const next = Math.min(Math.max(index + by, 0), this.tokens.length - 1);
      this.tokens[index].tabIndex = -1;
      this.tokens[next].tabIndex = 0;
      this.tokens[next].focus();
    } else if (event.key === "Enter" || event.key === " ") this.page.pin(this, index);
    else return;
    event.preventDefault();
  }

  choose(layerAt, head) {
    this.layerAt = layerAt;
    this.headAt = this.grid.cells[layerAt].has(head) ? head : 0;
    this.find("select.layer").value = layerAt;
    const heads = this.find("select.head");
    heads.replaceChildren(
      ...[...this.grid.cells[layerAt].keys()].map((at) => new Option(at === MEAN ? "mean of all" : String(this.layer.heads[at]), at)),
    );
    heads.value = this.headAt;
    const about = isSaliency(this.layer) ? SALIENCY : this.ownTokens ? this.layer.module : FOREIGN;
    this.find(".about").textContent = about;
    this.find(".about").classList.toggle("code", about === this.layer.module);
    this.find(".strip").classList.toggle("foreign", !this.ownTokens);
    if (this.page.cross?.pane === this) this.page.cross = null; // the next map may be smaller
    this.grid.mark();
    this.showMeasures();
    this.showMap();
    this.page.refresh();
  }

  pointMap(row, column, clicked) {
    const index = this.page.direction === "by" ? column : row;
    this.page.cross = { pane: this, row, column };
    if (clicked) this.page.pin(this, index);
    else this.page.point(this, index, false);
  }

  // ---- showing

  showMeasures() {
    const list = this.find(".measures dl");
    list.replaceChildren();
    for (const [name, { title, explanation, most }] of Object.entries(DATA.measures)) {
      if (!(name in this.layer.measures)) continue;
      const value = this.measure(name);
      const group = make("div");
      const bar = make("span", "bar");
      bar.style.setProperty("--part", most && value !== null ? Math.min(value / most, 1) : 0);
      const content = make("dd");
      content.append(make("b", "", number(value)), ...(most ? [bar] : []), make("small", "", explanation));
      group.append(make("dt", "", title), content);
      list.append(group);
    }
    this.find(".measures").hidden = !list.children.length;
  }

  /** The map and its scale, when the head, the colours or the width have changed. */
  showMap() {
    const [, rows, columns] = this.layer.shape;
    const names = this.ownTokens ? this.view.tokens : null;
    this.map.set(this.codes(), rows, columns, names, this.page.stretch);
    this.map.axes = isSaliency(this.layer) ? ["← prediction after", "depends on →"] : ["← looks", "is looked at →"];
    const title = this.headName(this.layer, this.headAt);
    this.find(".map h3").textContent = `Map of ${title}`;
    this.find("canvas").setAttribute("aria-label", `Map of ${title}: ${rows} tokens that look, ${columns} looked at`);
    const scale = this.find(".scale");
    scale.replaceChildren();
    const marks = [0.01, 0.1, 0.25, 0.5, 1].map((share) => [Math.sqrt(share), `${100 * share}%`]);
    legend(scale, "share", this.page.stretch ? [[0, "0"], [1, "the largest of its row"]] : [[0, "0"], ...marks]);
    scale.append(make("div", "nothing", "not visible, or nothing at all"));
  }

  /** Everything that follows the pointer. */
  show() {
    const { page } = this;
    const index = page.indexIn(this);
    const values = this.ownTokens ? this.values(index) : null;
    const cross = page.cross?.pane === this ? page.cross : null;
    const linked = page.linkedIn(this);
    const most = page.stretch && values ? largest(values) : 255;
    this.tokens.forEach((token, at) => {
      const code = values ? values[at] : 0;
      token.removeAttribute("style");
      if (code) paint(token, "share", scaled(code, most));
      token.classList.toggle("unseen", Boolean(values) && !code && at !== index);
      token.classList.toggle("active", at === index && this.ownTokens);
      token.classList.toggle("linked", linked.has(at) && at !== index);
      token.classList.toggle("pinned", at === index && page.pinned);
      token.classList.toggle("crossed", Boolean(cross) && this.ownTokens && (at === cross.row || at === cross.column));
      token.setAttribute("aria-selected", at === index && page.pinned);
    });
    if (this.ownTokens && index !== null && (page.active.pane !== this || cross)) this.reveal(this.tokens[index]);
    this.detail.show(index);
    this.showCross(index, cross);
  }

  /** Scrolls a long text, and nothing else, to a token. */
  reveal(token) {
    const strip = this.find(".strip");
    const [outer, inner] = [strip.getBoundingClientRect(), token.getBoundingClientRect()];
    if (inner.top < outer.top) strip.scrollTop -= outer.top - inner.top + 8;
    else if (inner.bottom > outer.bottom) strip.scrollTop += inner.bottom - outer.bottom + 8;
  }

  showCross(index, cross) {
    const by = this.page.direction === "by";
    const known = this.values(index) ? index : null;
    const row = cross ? cross.row : by ? null : known;
    const column = cross ? cross.column : by ? known : null;
    this.map.draw(row, column);
    this.find(".readout").textContent =
      row !== null && column !== null && this.codes()
        ? `${this.place(row)} → ${this.place(column)}: ${percent(this.share(row, column))}`
        : "Point at a cell to read its share.";
  }
}

const isSaliency = (layer) => layer.name === "saliency";
