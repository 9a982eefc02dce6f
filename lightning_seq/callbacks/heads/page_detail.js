// What is said of one token: what it looks at most, and what the model expects after it.

const TOP = 5;

class TokenDetail {
  constructor(pane) {
    this.pane = pane;
  }

  show(index) {
    const { pane } = this;
    const values = pane.values(index);
    const reversed = pane.page.direction === "by";
    const [at, by] = isSaliency(pane.layer) ? ["depends on", "matters to"] : ["looks at", "is looked at by"];
    const title = values ? `${capital(pane.place(index))} ${reversed ? by : at}` : "Point at a token";
    pane.find(".detail h3").textContent = title;
    const order = values ? [...values.keys()].filter((k) => values[k]).sort((a, b) => values[b] - values[a] || a - b) : [];
    pane.find(".top").replaceChildren(...order.slice(0, TOP).map((k) => this.row(k, SHARES[values[k]])));
    pane.find(".predicts").replaceChildren(...this.predicts(values && pane.ownTokens ? index : null));
  }

  /** One token that is looked at, with its share. */
  row(index, share) {
    const { ownTokens, view } = this.pane;
    const row = make("li");
    const bar = make("span", "bar");
    bar.style.setProperty("--part", share);
    const token = make("q", "", ownTokens ? written(view.tokens[index]) : `place ${index}`);
    row.append(make("b", "", percent(share)), bar, token, make("small", "", ownTokens ? `token ${index}` : ""));
    return row;
  }

  /** What the model expects after a token, and what the text has there. */
  predicts(index) {
    if (index === null) return [];
    const { view } = this.pane;
    const parts = [];
    const prediction = view.predictions[index];
    if (prediction) {
      const [token, share] = prediction;
      parts.push("After it the model expects ", make("q", "", written(token)), share === null ? "" : ` (${percent(share)})`);
    }
    const next = view.tokens[index + 1];
    if (next !== undefined) parts.push(parts.length ? "; the text has " : "The text goes on with ", make("q", "", written(next)));
    return [...parts, parts.length ? "." : ""];
  }
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
