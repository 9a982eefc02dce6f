// The map of one head on a canvas: cells, labels, cross hair.

const LABELLED = 11; // pixels a cell needs for a token beside it
const LARGEST_CELL = 34;
const TALLEST = 520;

/** Draws the codes of a map, one pixel for each cell. */
function pixels(codes, rows, columns, stretch = false) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  const colours = RAMPS[theme()].share;
  const unseen = rgb(inks().unseen);
  for (let row = 0; row < rows; row++) {
    const most = stretch ? largest(codes.subarray(row * columns, (row + 1) * columns)) : 255;
    for (let at = row * columns; at < (row + 1) * columns; at++) {
      const code = codes[at];
      image.data.set(code ? colours[scaled(code, most)] : unseen, 4 * at);
      image.data[4 * at + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const largest = (codes) => codes.reduce((most, code) => Math.max(most, code), 1);
const scaled = (code, most) => Math.round((255 * code) / most);

/** The largest codes of squares of cells, so that a thin diagonal can still be seen when it is small. */
function shrink(codes, rows, columns, size) {
  const step = Math.max(1, Math.ceil(Math.max(rows, columns) / size));
  const [height, width] = [Math.ceil(rows / step), Math.ceil(columns / step)];
  const small = new Uint8Array(height * width);
  for (let row = 0; row < rows; row++) {
    const start = Math.floor(row / step) * width;
    for (let column = 0; column < columns; column++) {
      const at = start + Math.floor(column / step);
      small[at] = Math.max(small[at], codes[row * columns + column]);
    }
  }
  return [small, height, width];
}

class HeadMap {
  /** `tell(row, column, clicked)` hears of the cell below the pointer. */
  constructor(canvas, tell) {
    this.canvas = canvas;
    this.image = null;
    canvas.addEventListener("pointermove", (event) => this.point(event, tell, false));
    canvas.addEventListener("click", (event) => this.point(event, tell, true));
  }

  point(event, tell, clicked) {
    if (!this.image) return;
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - this.margin) / this.cell);
    const row = Math.floor((event.clientY - box.top - this.margin) / this.cell);
    if (row >= 0 && column >= 0 && row < this.rows && column < this.columns) tell(row, column, clicked);
  }

  /** Another map; `tokens` name its rows and its columns, null where there are only numbers. */
  set(codes, rows, columns, tokens, stretch) {
    Object.assign(this, { rows, columns, tokens });
    this.image = codes && pixels(codes, rows, columns, stretch);
  }

  /** Chooses the size of a cell for the width that there is. */
  measure() {
    const width = this.canvas.parentElement.clientWidth - 24;
    const fit = (margin) => Math.min((width - margin) / this.columns, TALLEST / this.rows, LARGEST_CELL);
    this.labelled = Boolean(this.tokens) && fit(78) >= LABELLED;
    this.margin = this.labelled ? 78 : 40;
    const cell = fit(this.margin);
    this.cell = cell >= 3 ? Math.floor(cell) : cell;
    const size = [this.margin + this.cell * this.columns + 2, this.margin + this.cell * this.rows + 2];
    const zoom = devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = size.map((length) => Math.round(length * zoom));
    [this.canvas.style.width, this.canvas.style.height] = size.map((length) => `${length}px`);
    const context = this.canvas.getContext("2d");
    context.setTransform(zoom, 0, 0, zoom, 0, 0);
    return context;
  }

  /** Draws all: `row` and `column` (null for none) get a frame. */
  draw(row, column) {
    const context = this.measure();
    if (!this.image) return;
    const { margin, cell, rows, columns } = this;
    context.imageSmoothingEnabled = cell < 1;
    context.drawImage(this.image, margin, margin, cell * columns, cell * rows);
    this.names(context);
    context.font = "10px ui-monospace, Menlo, Consolas, monospace";
    this.ticks(context, rows, row, (at) => [margin - 5, at]);
    context.save();
    context.rotate(-Math.PI / 2); // along the columns, from bottom to top
    context.textAlign = "left";
    this.ticks(context, columns, column, (at) => [5 - margin, at]);
    context.restore();
    context.strokeStyle = inks().accent;
    context.lineWidth = 1.5;
    const room = cell < 6 ? 1.5 : 0; // around thin cells, not on them
    const [thick, start] = [cell + 2 * room, margin - room];
    if (row !== null) context.strokeRect(margin, start + row * cell, cell * columns, thick);
    if (column !== null) context.strokeRect(start + column * cell, margin, thick, cell * rows);
  }

  names(context) {
    context.fillStyle = inks().text;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText(this.axes[1], this.margin, 8);
    context.save();
    context.rotate(-Math.PI / 2);
    context.textAlign = "right";
    context.fillText(this.axes[0], -this.margin, 8);
    context.restore();
    context.textAlign = "right";
  }

  /** Tokens beside the cells, or numbers now and then; `marked` is always written. */
  ticks(context, count, marked, where) {
    const step = this.labelled ? 1 : [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => n * this.cell >= 26) ?? 5000;
    const text = (at) => (this.labelled ? written(this.tokens[at], 8) : String(at));
    const put = (at) => context.fillText(text(at), ...where(this.margin + (at + 0.5) * this.cell));
    context.fillStyle = inks().text;
    for (let at = 0; at < count; at += step) {
      const free = marked === null || at === marked || Math.abs(at - marked) * this.cell >= 14 || this.labelled;
      if (free && at !== marked) put(at);
    }
    context.fillStyle = inks().accent;
    if (marked !== null) put(marked);
  }
}
