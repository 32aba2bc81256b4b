/**
 * What survives a reload, kept in sessionStorage: a conversation belongs to one tab, and its token must not stay on a
 * shared computer after that tab is closed, nor be read by another.
 */

const KEY = "supportstream.conversation.v1";

export class TabMemory {
  #storage;

  /** @param {Storage | null} storage null where the browser forbids it: then a reload begins anew */
  constructor(storage) {
    this.#storage = storage;
  }

  static open() {
    try {
      return new TabMemory(window.sessionStorage);
    } catch (error) {
      console.warn("This browser keeps nothing for this site, so a reload starts a new conversation.", error);
      return new TabMemory(null);
    }
  }

  /** @returns {object | null} what `save` was last given */
  load() {
    const saved = this.#storage?.getItem(KEY);
    return saved ? JSON.parse(saved) : null;
  }

  save(state) {
    this.#storage?.setItem(KEY, JSON.stringify(state));
  }
}
