/** A customer's side of the wire protocol: joins socket, conversation and memory. Knows no DOM. */

import { Conversation } from "./conversation.js";
import { SupportSocket } from "./socket.js";

const TYPING_EVERY_MS = 3_000;
/** A message that Kafka does not have after this long means that the connection is dead, whatever it says. */
const ACCEPT_WITHIN_MS = 15_000;
const TOKEN_ERRORS = new Set(["token_required", "token_invalid", "token_expired", "fingerprint_mismatch"]);

/** 128 random bits. `crypto.randomUUID` is missing where the page comes over plain HTTP from another computer. */
function newMessageId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "m-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class SupportClient extends EventTarget {
  #socket;
  #memory;
  #session;
  #acceptTimer = null;
  #typedAt = -Infinity;
  #unsentScores = new Map();

  /**
   * Events: `state` {state, reason}; `exchange` {exchange}: it is new or has changed; `sync` {lost}: any may have changed
   * or gone, `lost` where earlier ones can't be shown any more; `notice` {message}: an error about no exchange.
   * @param {string} url
   * @param {import("./tab_memory.js").TabMemory} memory
   */
  constructor(url, memory) {
    super();
    const saved = memory.load();
    this.#memory = memory;
    this.#session = saved?.session ?? null;
    this.conversation = Conversation.fromSaved(saved?.conversation);
    this.#socket = new SupportSocket(url, {
      onState: (state, reason) => this.#emit("state", { state, reason }),
      onConnected: () => this.#hello(),
      onFrame: (frame) => this.#receive(frame),
    });
  }

  start() {
    this.#socket.start();
  }

  /** Sends a message now, or as soon as there is a connection. */
  say(text) {
    this.#deliver(this.conversation.ask(newMessageId(), text));
  }

  retry(id) {
    this.#deliver(this.conversation.retry(id));
  }

  stop(id) {
    if (this.conversation.get(id).stopping) return;
    if (this.#socket.send({ type: "cancel", id })) this.#changed(this.conversation.stopping(id));
  }

  rate(id, score) {
    const exchange = this.conversation.rate(id, score);
    this.#unsentScores.set(exchange.seq, score);
    this.#sendScores();
    this.#changed(exchange);
  }

  /** The customer is typing. Sent at most once per 3 s. */
  typing(now = performance.now()) {
    if (!this.#socket.isOpen || now - this.#typedAt < TYPING_EVERY_MS) return;
    this.#typedAt = now;
    this.#socket.send({ type: "typing" });
  }

  tryNow() {
    this.#socket.tryNow();
  }

  /** Leaves this session for a new one. What was written and not accepted goes along. */
  startAnew() {
    this.#forget();
    this.#socket.tryNow();
  }

  #hello() {
    const hello = { type: "hello" };
    if (this.#session) Object.assign(hello, this.#session);
    if (this.#session && this.conversation.position) hello.resume = this.conversation.position;
    this.#socket.send(hello);
  }

  #receive(frame) {
    if (frame.type === "welcome") return this.#welcome(frame);
    if (frame.type === "error" && TOKEN_ERRORS.has(frame.code)) return this.#socket.refused("token");
    const exchange = this.conversation.apply(frame);
    if (this.conversation.deleted) return this.#end();
    if (exchange) this.#changed(exchange);
    else this.#save();
    if (frame.type === "error" && !exchange && frame.seq == null) this.#emit("notice", { message: frame.message });
    this.#watchAcceptance();
  }

  #welcome(frame) {
    this.#session = { session_id: frame.session_id, token: frame.token };
    const lost = this.conversation.welcome(frame);
    for (const missed of frame.missed) this.conversation.apply(missed);
    if (this.conversation.deleted) return this.#end();
    this.#save();
    this.#emit("sync", { lost });
    this.#socket.welcomed();
    for (const { id, text } of this.conversation.unaccepted()) this.#socket.send({ type: "message", id, text });
    this.#sendScores();
    this.#watchAcceptance();
  }

  #end() {
    this.#forget();
    this.#socket.refused("deleted");
  }

  #forget() {
    const queued = this.conversation.unaccepted();
    this.conversation = new Conversation();
    for (const { id, text } of queued) this.conversation.ask(id, text);
    this.#session = null;
    this.#unsentScores.clear();
    this.#save();
    this.#emit("sync", { lost: false });
  }

  #deliver(exchange) {
    if (this.#socket.isOpen) this.#socket.send({ type: "message", id: exchange.id, text: exchange.text });
    this.#changed(exchange);
    this.#watchAcceptance();
  }

  #sendScores() {
    if (!this.#socket.isOpen) return;
    for (const [seq, score] of this.#unsentScores) this.#socket.send({ type: "feedback", seq, score });
    this.#unsentScores.clear();
  }

  #watchAcceptance() {
    clearTimeout(this.#acceptTimer);
    if (!this.#socket.isOpen || this.conversation.unaccepted().length === 0) return;
    this.#acceptTimer = setTimeout(() => this.#socket.stalled(), ACCEPT_WITHIN_MS);
  }

  #changed(exchange) {
    this.#save();
    this.#emit("exchange", { exchange });
  }

  #save() {
    this.#memory.save({ session: this.#session, conversation: this.conversation.toSaved() });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
