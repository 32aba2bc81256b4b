/** The shell around `Connection`: carries out its effects with a WebSocket, a timer and the browser's events. */

import { Connection } from "./connection.js";

const SUBPROTOCOL = "support.v1.json";
const CLOSED_BY_PAGE = 1000;

/** The WebSocket address beside this page, `ws:` or `wss:` like the page itself. */
export function socketAddress() {
  const address = new URL("../../ws", import.meta.url);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}

export class SupportSocket {
  #url;
  #listener;
  #connection = new Connection();
  #socket = null;
  #timer = null;

  /**
   * @param {string} url
   * @param {{onState: (state: string, reason: string | null) => void, onConnected: () => void,
   *          onFrame: (frame: object) => void}} listener `onConnected`: say `hello` now
   */
  constructor(url, listener) {
    this.#url = url;
    this.#listener = listener;
  }

  start() {
    addEventListener("online", () => this.#carryOut(this.#connection.woke()));
    addEventListener("offline", () => this.#carryOut(this.#connection.wentOffline()));
    addEventListener("pageshow", () => this.#carryOut(this.#connection.woke()));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#carryOut(this.#connection.woke());
    });
    this.#carryOut(this.#connection.start(navigator.onLine));
  }

  get isOpen() {
    return this.#connection.state === "open";
  }

  /** Whether the frame was handed to an open socket; not whether it arrived. */
  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  welcomed() {
    this.#carryOut(this.#connection.welcomed());
  }

  refused(reason) {
    this.#carryOut(this.#connection.refused(reason));
  }

  stalled() {
    this.#carryOut(this.#connection.stalled());
  }

  tryNow() {
    this.#carryOut(this.#connection.tryNow());
  }

  #carryOut(effects) {
    for (const effect of effects) {
      if (effect.do === "connect") this.#connect();
      else if (effect.do === "disconnect") this.#disconnect();
      else if (effect.do === "timer") this.#startTimer(effect.ms);
      else this.#stopTimer();
    }
    if (effects.length > 0) this.#listener.onState(this.#connection.state, this.#connection.reason);
  }

  #connect() {
    this.#disconnect();
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    // Events of a socket that was given up must not touch the one that replaced it.
    const whileCurrent = (handle) => (event) => {
      if (this.#socket === socket) handle(event);
    };
    socket.onopen = whileCurrent(() => this.#listener.onConnected());
    socket.onmessage = whileCurrent((event) => this.#listener.onFrame(JSON.parse(event.data)));
    socket.onclose = whileCurrent((event) => {
      this.#socket = null;
      this.#carryOut(this.#connection.closed(event.code));
    });
  }

  #disconnect() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(CLOSED_BY_PAGE);
  }

  #startTimer(ms) {
    this.#stopTimer();
    this.#timer = setTimeout(() => this.#carryOut(this.#connection.timedOut()), ms);
  }

  #stopTimer() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }
}
