/** One exchange: the customer's message, what became of it, and the answer. */

import { AnswerView } from "./answer_view.js";
import { copyOf } from "./template.js";

const WHO = { agent: "Assistant", operator: "Support team", system: "Support", customer: "Customer" };

export class ExchangeView {
  #parts;
  #actions;
  #answered = false;

  /** @param {{retry: (id: string) => void, stop: (id: string) => void, rate: (id: string, score: number) => void}} actions */
  constructor(exchange, actions) {
    this.#parts = copyOf("exchange-template");
    this.#actions = actions;
    this.element.dataset.id = exchange.id;
    const { id } = exchange;
    this.#part("retry").addEventListener("click", () => actions.retry(id));
    this.#part("stop").addEventListener("click", () => actions.stop(id));
    for (const [name, score] of [["good", 1], ["bad", -1]]) {
      this.#part(name).addEventListener("click", (event) => {
        const pressed = event.currentTarget.getAttribute("aria-pressed") === "true";
        actions.rate(id, pressed ? 0 : score);
      });
    }
  }

  get element() {
    return this.#parts.root;
  }

  /**
   * @param {import("./conversation.js").Exchange} exchange
   * @param {boolean} lost whether there is no connection and the reader knows it
   */
  update(exchange, lost) {
    this.#part("question").hidden = exchange.text === null;
    this.#setText("question-text", exchange.text ?? "");
    this.#showDelivery(exchange, lost);
    this.#showProgress(exchange, lost);
    if (exchange.reply && !this.#answered) this.#showAnswer(exchange.reply);
    this.#part("good").setAttribute("aria-pressed", String(exchange.score === 1));
    this.#part("bad").setAttribute("aria-pressed", String(exchange.score === -1));
    this.#part("handover").hidden = exchange.escalated === null;
    this.#setText(
      "handover-text",
      exchange.escalated
        ? "A person from our team was asked to help. They will answer here."
        : "The assistant is answering again.",
    );
  }

  #showDelivery({ status, problem }, lost) {
    const words = {
      queued: lost ? "Waiting for a connection. Sent as soon as there is one." : "Sending…",
      held: "Delivered. A person from our team will answer.",
      stopped: "You stopped this answer.",
      failed: problem?.message || "This message could not be answered.",
    }[status];
    this.#part("delivery").hidden = words === undefined;
    this.#part("delivery").classList.toggle("failed", status === "failed");
    this.#setText("delivery-text", words ?? "");
    this.#part("retry").hidden = !(status === "failed" && problem?.retryable);
  }

  #showProgress({ status, partial, stopping }, lost) {
    const awaited = status === "accepted";
    const progress = this.#part("progress");
    const hadFocus = progress.contains(document.activeElement);
    progress.hidden = !awaited;
    this.#part("partial").hidden = partial === "";
    this.#setText("partial", partial);
    this.#part("dots").hidden = lost;
    this.#setText("writing", lost ? "The answer is not here yet." : "The assistant is writing…");
    this.#part("stop").hidden = lost;
    this.#part("stop").setAttribute("aria-disabled", String(stopping));
    this.#setText("stop-text", stopping ? "Stopping…" : "Stop");
    if (hadFocus && !awaited) this.#actions.leftProgress();
  }

  #showAnswer(reply) {
    this.#answered = true;
    // A fresh node, so that the log announces the answer once and as a whole.
    const { root, part } = copyOf("answer-template");
    part("who").textContent = WHO[reply.actor] ?? WHO.agent;
    part("mark").dataset.actor = reply.actor;
    new AnswerView(reply, { body: part("body"), sources: part("sources") });
    const rating = this.#part("rating");
    rating.hidden = reply.actor !== "agent";
    root.append(rating);
    this.#part("progress").after(root);
  }

  #part(name) {
    return this.#parts.part(name);
  }

  /** Unchanged text is left alone, since a live region would read it again. */
  #setText(name, text) {
    const part = this.#part(name);
    if (part.textContent !== text) part.textContent = text;
  }
}
