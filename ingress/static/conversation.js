/**
 * The conversation as a fold of frames, without DOM. It is a list of exchanges: what the customer said and what was
 * answered, one of which may be missing. Settled exchanges stand in the server's order, the others behind them.
 */

/**
 * @typedef {object} Exchange
 * @property {string} id the message's id
 * @property {string | null} text what the customer said
 * @property {"queued" | "accepted" | "answered" | "held" | "stopped" | "failed" | "notice"} status
 *   held: received while a person holds the session; notice: nothing was said, who answers has changed
 * @property {number | null} seq its place once settled
 * @property {string} partial the answer so far, from deltas
 * @property {{text: string, citations: object[], actor: string} | null} reply
 * @property {boolean | null} escalated set where this exchange changed who answers
 * @property {{message: string, retryable: boolean} | null} problem
 * @property {boolean} stopping the customer asked to stop the answer
 * @property {number} score -1, 0 or 1
 */

const LASTING = new Set(["queued", "accepted", "stopped", "failed"]);

export class Conversation {
  /** @type {Map<string, Exchange>} */
  #exchanges = new Map();
  /** The newest place seen: `{epoch, seq}`, or null before the first welcome. */
  position = null;
  /** Another window or an operator deleted the conversation. */
  deleted = false;
  #nextDelta = new Map();
  #scores = new Map();

  /** @returns {Exchange[]} in the order to show them */
  exchanges() {
    return [...this.#exchanges.values()].sort((a, b) => (a.seq ?? Infinity) - (b.seq ?? Infinity) || a.order - b.order);
  }

  get(id) {
    return this.#exchanges.get(id);
  }

  /** Messages that Kafka is not known to have, oldest first. */
  unaccepted() {
    return [...this.#exchanges.values()].filter((exchange) => exchange.status === "queued");
  }

  /** The customer says something new. */
  ask(id, text) {
    return this.#add({ id, text });
  }

  /** A message that was refused goes back into the queue under its id. */
  retry(id) {
    const exchange = this.#exchanges.get(id);
    return Object.assign(exchange, { status: "queued", seq: null, problem: null, stopping: false });
  }

  stopping(id) {
    const exchange = this.#exchanges.get(id);
    return Object.assign(exchange, { stopping: true });
  }

  rate(id, score) {
    const exchange = this.#exchanges.get(id);
    this.#scores.set(exchange.seq, score);
    return Object.assign(exchange, { score });
  }

  /**
   * The server's `welcome`. Apply its `missed` afterwards.
   * @returns {boolean} whether earlier messages were lost and forgotten here
   */
  welcome(frame) {
    const before = this.position;
    const lost = before !== null && !frame.recovered;
    // A session without a turn is at epoch 0 and gets its own with the first one: another epoch alone is no loss.
    const anotherEpoch = before !== null && before.epoch !== frame.epoch;
    if (lost) {
      for (const { id, status } of this.exchanges()) {
        if (status !== "queued" && !(status === "accepted" && !anotherEpoch)) this.#exchanges.delete(id);
      }
      if (anotherEpoch) this.#scores.clear();
    }
    if (before === null || anotherEpoch || lost) this.position = { epoch: frame.epoch, seq: 0 };
    return lost;
  }

  /** @returns {Exchange | null} the exchange that the frame changed */
  apply(frame) {
    switch (frame.type) {
      case "accepted":
        return this.#accepted(frame);
      case "delta":
        return this.#delta(frame);
      case "reply":
        return this.#advance(frame) ? this.#reply(frame) : null;
      case "session":
        return this.#advance(frame) ? this.#session(frame) : null;
      case "error":
        return this.#error(frame);
      default:
        return null;
    }
  }

  #accepted({ id }) {
    const exchange = this.#exchanges.get(id);
    return exchange?.status === "queued" ? Object.assign(exchange, { status: "accepted" }) : null;
  }

  /** A restarted answer begins again at 0; after a gap the text so far stands still until the reply replaces it. */
  #delta({ id, n, text }) {
    const exchange = this.#exchanges.get(id);
    if (!exchange || (exchange.status !== "accepted" && exchange.status !== "queued")) return null;
    if (n !== 0 && n !== this.#nextDelta.get(id)) return null;
    this.#nextDelta.set(id, n + 1);
    return Object.assign(exchange, { status: "accepted", partial: n === 0 ? text : exchange.partial + text });
  }

  #reply({ id, seq, message = null, text, citations = [], escalated = null, actor }) {
    const exchange = this.#exchanges.get(id) ?? this.#add({ id, text: message });
    if (exchange.status === "answered") return null;
    this.#nextDelta.delete(id);
    return Object.assign(exchange, {
      status: "answered",
      seq,
      partial: "",
      problem: null,
      escalated,
      reply: { text, citations, actor },
      score: this.#scores.get(seq) ?? 0,
    });
  }

  #session({ id, seq, deleted = false, message = null, escalated = null }) {
    if (deleted) {
      this.deleted = true;
      return null;
    }
    if (message === null && escalated === null) return null;
    const exchange = this.#exchanges.get(id) ?? this.#add({ id, text: message });
    return Object.assign(exchange, { seq, escalated, partial: "", status: message === null ? "notice" : "held" });
  }

  #error({ id, epoch, seq = null, code, message, retryable }) {
    if (seq !== null && !this.#advance({ epoch, seq })) return null;
    const exchange = this.#exchanges.get(id);
    if (!exchange || exchange.status === "answered") return null;
    // An error without a place about a message that Kafka has concerns something else, such as its cancellation.
    if (seq === null && exchange.status === "accepted") return null;
    const status = code === "cancelled" ? "stopped" : "failed";
    return Object.assign(exchange, { status, seq, partial: "", problem: { message, retryable } });
  }

  /** Whether this place is new. A session's epoch begins with its first turn, and a new one after a deletion. */
  #advance({ epoch, seq }) {
    if (epoch < this.position.epoch) return false;
    const seen = epoch > this.position.epoch ? 0 : this.position.seq;
    if (seq <= seen) return false;
    this.position = { epoch, seq };
    return true;
  }

  #add(fields) {
    const exchange = {
      text: null,
      status: "queued",
      seq: null,
      order: this.#exchanges.size,
      partial: "",
      reply: null,
      escalated: null,
      problem: null,
      stopping: false,
      score: 0,
      ...fields,
    };
    this.#exchanges.set(exchange.id, exchange);
    return exchange;
  }

  /** What a reload must keep: the server has the answered exchanges, only this tab has the others. */
  toSaved() {
    const open = this.exchanges().filter((exchange) => LASTING.has(exchange.status));
    return {
      epoch: this.position?.epoch ?? null,
      scores: [...this.#scores],
      open: open.map(({ id, text, status, seq, problem }) => ({ id, text, status, seq, problem })),
    };
  }

  /** The conversation at the start of a reloaded page: everything that the server has is yet to come. */
  static fromSaved(saved) {
    const conversation = new Conversation();
    if (!saved) return conversation;
    if (saved.epoch !== null) conversation.position = { epoch: saved.epoch, seq: 0 };
    conversation.#scores = new Map(saved.scores);
    for (const fields of saved.open) conversation.#add(fields);
    return conversation;
  }
}
