/** Where the customer writes. Enter sends, Shift+Enter breaks the line. */

/** Counted in code points, as the server does. */
export const LONGEST_TEXT = 8_000;
const COUNT_FROM = 7_500;

export class ComposerView {
  #form;
  #text;
  #send;
  #counter;
  #onSay;
  #refused = false;

  /** @param {{onSay: (text: string) => void, onTyping: () => void}} listener */
  constructor({ onSay, onTyping }) {
    this.#form = document.getElementById("composer");
    this.#text = document.getElementById("message");
    this.#send = document.getElementById("send");
    this.#counter = document.getElementById("counter");
    this.#onSay = onSay;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#say();
    });
    this.#text.addEventListener("input", () => {
      this.#refresh();
      if (this.#text.value.trim() !== "") onTyping();
    });
    this.#text.addEventListener("keydown", (event) => {
      // While an input method composes, Enter picks a candidate; Safari reports that one with keyCode 229 only.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#say();
    });
    this.#refresh();
  }

  focus() {
    this.#text.focus();
  }

  /** Nothing can be sent until a person has decided how to go on. */
  refuse(refused) {
    this.#refused = refused;
    this.#text.disabled = refused;
    this.#refresh();
  }

  #say() {
    const text = this.#text.value.trim();
    if (!this.#sendable()) return;
    this.#text.value = "";
    this.#refresh();
    this.#text.focus();
    this.#onSay(text.toWellFormed?.() ?? text);
  }

  #sendable() {
    const text = this.#text.value.trim();
    return !this.#refused && text !== "" && [...text].length <= LONGEST_TEXT;
  }

  #refresh() {
    const length = [...this.#text.value.trim()].length;
    const over = length - LONGEST_TEXT;
    this.#counter.hidden = length < COUNT_FROM;
    this.#counter.classList.toggle("over", over > 0);
    this.#counter.textContent =
      over > 0
        ? `${over.toLocaleString("en")} characters too long`
        : `${(-over).toLocaleString("en")} characters left`;
    this.#text.setAttribute("aria-invalid", String(over > 0));
    this.#send.disabled = !this.#sendable();
    this.#grow();
  }

  #grow() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
