"use strict";
// Text and numbers: how tokens are written, where they are in the text, shares and their colours.

const SHARES = Float64Array.from({ length: 256 }, (_, code) => (code / 255) ** 2);

/** A share in per cent, with no more digits than the rounding to 8 bits leaves. */
function percent(share) {
  const points = 100 * share;
  if (points === 0) return "0%";
  if (points < 0.01) return "<0.01%";
  return `${points < 1 ? points.toFixed(2) : points < 9.95 ? points.toFixed(1) : Math.round(points)}%`;
}

/** A measure, or a dash where there is none. */
function number(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 10 ? value.toFixed(2) : value.toPrecision(3);
}

// what has no shape of its own, or would change how the text around it runs
const UNSEEN = /[\p{Z}\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\uFFFD]/u;
const SIGNS = new Map([[" ", "␣"], ["\n", "⏎"], ["\t", "⇥"], ["\u00a0", "⍽"], ["\uFFFD", "\uFFFD"], ["\x7f", "␡"]]);

/** How a character is written that cannot be seen; null for all others. */
function sign(character) {
  if (!UNSEEN.test(character)) return null;
  const code = character.codePointAt(0);
  if (SIGNS.has(character)) return SIGNS.get(character);
  return code < 32 ? String.fromCharCode(0x2400 + code) : `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

/** A token in one line, cut to `most` characters. */
function written(text, most = 24) {
  const characters = Array.from(text, (character) => sign(character) ?? character);
  if (!characters.length) return "∅";
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : characters.join("");
}

/** A new element with a class and a text, in that order. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

/** Fills an element with a token: what cannot be seen as dim signs, and a line break after a new line. */
function write(element, text) {
  let plain = "";
  const flush = () => {
    if (plain) element.append(plain);
    plain = "";
  };
  for (const character of text) {
    const shown = sign(character);
    if (shown === null) {
      plain += character;
      continue;
    }
    flush();
    element.append(make("i", "", shown));
    if (character === "\n") element.append(document.createElement("br"));
  }
  flush();
  if (!text) element.append(make("i", "", "∅"));
}

const ANCHOR = 4; // so many equal characters in a row are taken for the same place
const FARTHEST = 64;

/** How far to go on in both texts until they are equal again. */
function skip(text, i, reference, j) {
  for (let both = 1; both <= FARTHEST; both++) {
    for (let first = 0; first <= both; first++) {
      const a = text.substr(i + first, ANCHOR);
      if (a === reference.substr(j + both - first, ANCHOR)) return [first, both - first];
    }
  }
  return [1, 1];
}

/** For each character of `text` its place in `reference`, -1 where it has none. */
function places(text, reference) {
  const found = new Int32Array(text.length).fill(-1);
  let [i, j] = [0, 0];
  while (i < text.length && j < reference.length) {
    if (text[i] === reference[j]) {
      found[i++] = j++;
      continue;
    }
    const [mine, other] = skip(text, i, reference, j);
    for (let k = 0; other && k < mine && i + k < text.length; k++) found[i + k] = j + Math.floor((k * other) / mine);
    [i, j] = [i + mine, j + other];
  }
  return found;
}

/** For each token the first and the last place of its characters in `reference`; null where it has none. */
function spans(tokens, reference) {
  const found = places(tokens.join(""), reference);
  let start = 0;
  return tokens.map((token) => {
    const own = found.subarray(start, (start += token.length)).filter((place) => place >= 0);
    return own.length ? [own[0], own[own.length - 1]] : null;
  });
}

// Colours in order of lightness, readable without red or green: warm for shares, cool for measures.
const INKS = {
  light: {
    share: ["#fffaf0", "#fee2ae", "#fbb269", "#ee7350", "#c03a62", "#7a1d6d", "#340f4e"],
    measure: ["#f3f8fb", "#c5dfec", "#85bbd9", "#458fbf", "#21639b", "#143a6b"],
    unseen: "#dfe1e6", text: "#5b6270", line: "#8b93a3", accent: "#0a66d8",
  },
  dark: {
    share: ["#17131f", "#43185f", "#86246f", "#c53f62", "#f0784e", "#fdb769", "#fff0c4"],
    measure: ["#141b24", "#173a5e", "#21639b", "#458fbf", "#8cc4e0", "#dff1fa"],
    unseen: "#3a3e48", text: "#a7afbd", line: "#6c7482", accent: "#58a6ff",
  },
};
const DARK = matchMedia("(prefers-color-scheme: dark)");

const rgb = (ink) => [1, 3, 5].map((at) => parseInt(ink.slice(at, at + 2), 16));

/** 256 colours (red, green, blue) between the given ones. */
function ramp(inks) {
  const stops = inks.map(rgb);
  return Array.from({ length: 256 }, (_, code) => {
    const at = (code / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((part, k) => Math.round(part + (at - low) * (stops[low + 1][k] - part)));
  });
}

const RAMPS = Object.fromEntries(
  Object.entries(INKS).map(([theme, inks]) => [theme, { share: ramp(inks.share), measure: ramp(inks.measure) }]),
);
const theme = () => (DARK.matches ? "dark" : "light");
const inks = () => INKS[theme()];

/** Paints an element, with letters that can be read on it. */
function paint(element, kind, code) {
  const colour = RAMPS[theme()][kind][code];
  const [r, g, b] = colour.map((part) => (part / 255) ** 2.2);
  element.style.background = `rgb(${colour})`;
  element.style.color = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

/** A strip of all colours with words below it, at fractions of its width. */
function legend(element, kind, marks) {
  const bar = make("div", "ramp");
  bar.style.background = `linear-gradient(to right, ${inks()[kind].join(", ")})`;
  const words = make("div", "marks");
  for (const [at, text] of marks) {
    const mark = make("span", "", text);
    mark.style.left = `${100 * at}%`;
    mark.style.transform = `translateX(${-100 * at}%)`;
    words.append(mark);
  }
  element.append(bar, words);
}
