/** The list of exchanges: keeps their order, and stays at the newest while the reader is there. */

import { ExchangeView } from "./exchange_view.js";

/** Closer to the end than this counts as being there. */
const AT_END_PX = 80;

export class LogView {
  #scroller;
  #list;
  #welcome;
  #jump;
  #actions;
  #views = new Map();
  #atEnd = true;

  /** @param {object} actions see `ExchangeView` */
  constructor(actions) {
    this.#scroller = document.getElementById("conversation");
    this.#list = document.getElementById("log");
    this.#welcome = document.getElementById("welcome");
    this.#jump = document.getElementById("jump");
    this.#actions = actions;
    this.#scroller.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    this.#jump.addEventListener("click", () => this.toEnd());
    // A source that opens makes the list longer, but nobody asked to be taken to the end by that.
    new ResizeObserver(() => this.#noteScroll()).observe(this.#list);
    new ResizeObserver(() => this.#follow()).observe(this.#scroller);
  }

  /**
   * @param {import("./conversation.js").Exchange[]} exchanges all, in order
   * @param {boolean} lost whether there is no connection and the reader knows it
   */
  show(exchanges, lost) {
    this.#welcome.hidden = exchanges.length > 0;
    const shown = new Set(exchanges.map(({ id }) => id));
    for (const [id, view] of this.#views) {
      if (!shown.has(id)) {
        view.element.remove();
        this.#views.delete(id);
      }
    }
    let place = this.#list.firstElementChild;
    for (const exchange of exchanges) {
      const { element } = this.#update(exchange, lost);
      // Moving a node drops its focus and is announced again: only do it where the order is wrong.
      if (element === place) place = place.nextElementSibling;
      else this.#list.insertBefore(element, place);
    }
    // At once: a scroll event on the way would take the longer list for a reader who has scrolled up.
    this.#follow();
  }

  /** While history is put back, nothing of it is read out. */
  quietly(change) {
    this.#list.setAttribute("aria-live", "off");
    change();
    requestAnimationFrame(() => requestAnimationFrame(() => this.#list.setAttribute("aria-live", "polite")));
  }

  toEnd() {
    this.#atEnd = true;
    this.#follow();
  }

  #update(exchange, lost) {
    let view = this.#views.get(exchange.id);
    if (!view) {
      view = new ExchangeView(exchange, this.#actions);
      this.#views.set(exchange.id, view);
    }
    view.update(exchange, lost);
    return view;
  }

  #noteScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < AT_END_PX;
    this.#jump.hidden = this.#atEnd;
  }

  #follow() {
    if (this.#atEnd && this.#views.size > 0) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#noteScroll();
  }
}
