/**
 * A finished answer: its text, and its sources, which open below it. Everything that a model or a document wrote goes
 * into the page as text nodes, never as markup.
 */

import { parseAnswer } from "./answer_text.js";
import { copyOf } from "./template.js";

/** The end of a text that stays on one line with the reference after it; a longer word may break. */
const LAST_WORD = /\S{1,14}\s*$/;
const PUNCTUATION = /^[.,;:!?)]+/;

let panels = 0;

/** Only web addresses become links: `javascript:`, `data:` and the like do not. */
function safeLink(url) {
  if (!url || !URL.canParse(url)) return null;
  const { protocol, href } = new URL(url);
  return protocol === "https:" || protocol === "http:" ? href : null;
}

/** Cosine similarity in words; the bounds suit all-MiniLM-L6-v2. */
function matchInWords(score) {
  if (score >= 0.6) return "Close match to your question";
  return score >= 0.4 ? "Related to your question" : "Loosely related to your question";
}

function unbrokenSpan() {
  const span = document.createElement("span");
  span.className = "unbroken";
  return span;
}

export class AnswerView {
  #citations;
  #body;
  #chips;
  #panel;
  #openers = [];
  #openAt = null;
  #openedBy = null;

  /**
   * @param {{text: string, citations: object[]}} reply
   * @param {{body: HTMLElement, sources: HTMLElement}} into
   */
  constructor(reply, { body, sources }) {
    this.#citations = reply.citations;
    this.#body = body;
    body.replaceChildren(...parseAnswer(reply.text, reply.citations.length).map((block) => this.#block(block)));
    sources.hidden = reply.citations.length === 0;
    if (sources.hidden) return;
    this.#chips = sources.querySelector("[data-part=chips]");
    this.#panel = copyOf("source-template");
    panels += 1;
    this.#panel.root.id = `source-${panels}`;
    this.#panel.root.hidden = true;
    this.#panel.part("close").addEventListener("click", () => this.#close());
    sources.append(this.#panel.root);
    this.#chips.replaceChildren(...reply.citations.map((citation, index) => this.#chip(citation, index)));
    for (const element of [body, sources]) {
      element.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && this.#openAt !== null) this.#close();
      });
    }
    for (const opener of this.#openers) opener.setAttribute("aria-controls", this.#panel.root.id);
  }

  #block(block) {
    if (block.kind === "list") {
      const list = document.createElement(block.ordered ? "ol" : "ul");
      if (block.ordered) list.start = block.start;
      list.append(
        ...block.items.map((item) => {
          const element = document.createElement("li");
          element.append(...this.#inline(item));
          return element;
        }),
      );
      return list;
    }
    const paragraph = document.createElement("p");
    block.lines.forEach((line, index) => {
      if (index > 0) paragraph.append(document.createElement("br"));
      paragraph.append(...this.#inline(line));
    });
    return paragraph;
  }

  #inline(pieces) {
    const nodes = [];
    let unbroken = null;
    pieces.forEach((piece, index) => {
      if ("cite" in piece) {
        if (!unbroken) nodes.push((unbroken = unbrokenSpan()));
        unbroken.append(this.#reference(piece.cite));
        return;
      }
      const start = unbroken ? (PUNCTUATION.exec(piece.text)?.[0].length ?? 0) : 0;
      unbroken?.append(piece.text.slice(0, start));
      unbroken = null;
      const isBeforeReference = index + 1 < pieces.length;
      const end = Math.max(start, isBeforeReference ? piece.text.search(LAST_WORD) : piece.text.length);
      nodes.push(document.createTextNode(piece.text.slice(start, end)));
      if (isBeforeReference) {
        nodes.push((unbroken = unbrokenSpan()));
        unbroken.append(piece.text.slice(end));
      }
    });
    return nodes;
  }

  #reference(number) {
    const button = this.#opener(number - 1);
    button.className = "reference";
    button.textContent = String(number);
    button.setAttribute("aria-label", `Source ${number}: ${this.#citations[number - 1].title}`);
    return button;
  }

  #chip(citation, index) {
    const item = document.createElement("li");
    const button = this.#opener(index);
    button.className = "chip";
    const number = document.createElement("span");
    number.className = "chip-number";
    number.textContent = String(index + 1);
    const title = document.createElement("span");
    title.className = "chip-title";
    title.textContent = citation.title;
    button.append(number, title);
    item.append(button);
    return item;
  }

  #opener(index) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.source = String(index);
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => (this.#openAt === index ? this.#close() : this.#open(index, button)));
    this.#openers.push(button);
    return button;
  }

  #open(index, opener) {
    const citation = this.#citations[index];
    const { root, part } = this.#panel;
    this.#openAt = index;
    this.#openedBy = opener;
    root.setAttribute("aria-label", `Source ${index + 1}: ${citation.title}`);
    part("title").textContent = citation.title;
    part("match").textContent = matchInWords(citation.score);
    part("passage").textContent = citation.passage;
    const href = safeLink(citation.url);
    part("link").hidden = href === null;
    if (href !== null) part("link").href = href;
    root.hidden = false;
    this.#markOpeners();
    root.focus({ preventScroll: true });
    root.scrollIntoView({ block: "nearest" });
  }

  #close() {
    this.#openAt = null;
    this.#panel.root.hidden = true;
    this.#markOpeners();
    this.#openedBy.focus();
  }

  #markOpeners() {
    for (const opener of this.#openers) {
      opener.setAttribute("aria-expanded", String(Number(opener.dataset.source) === this.#openAt));
    }
  }
}
