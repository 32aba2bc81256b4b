/**
 * The life of the connection as a state machine: inputs go in, effects come out. It owns no socket, timer or clock.
 *
 *   connecting ── welcome ──▶ open          waiting: until the next attempt
 *       │  ▲                   │            offline: the browser has no network
 *       │  └─ time, wake ─ waiting ◀─ lost  refused: the server said no; only a person can go on
 *
 * Every input returns effects in order: `{do: "connect"}`, `{do: "disconnect"}`, `{do: "timer", ms}` (replaces the
 * timer that runs) and `{do: "stop_timer"}`.
 */

export const CONNECT_TIMEOUT_MS = 10_000;
export const FIRST_DELAY_MS = 500;
export const LONGEST_DELAY_MS = 30_000;

/** Close codes after which connecting again would end the same way. All others are worth another attempt. */
const REFUSALS = new Map([
  [1009, "protocol"],
  [4400, "protocol"],
  [4401, "token"],
  [4403, "forbidden"],
]);

export class Connection {
  /** @type {"idle" | "connecting" | "open" | "waiting" | "offline" | "refused"} */
  state = "idle";
  /** Why the server refused, while `state` is "refused": "token", "forbidden" or "protocol". */
  reason = null;
  /** Attempts since the connection was last open. */
  attempt = 0;
  #random;

  /** @param {() => number} random 0 to 1, spreads the attempts of many pages after one restart */
  constructor(random = Math.random) {
    this.#random = random;
  }

  start(online) {
    return online ? this.#connect() : this.#enter("offline", [{ do: "stop_timer" }]);
  }

  /** The server's `welcome` came. Only now the attempts count as over, a server that greets nobody is not healthy. */
  welcomed() {
    if (this.state !== "connecting") return [];
    this.attempt = 0;
    return this.#enter("open", [{ do: "stop_timer" }]);
  }

  /** The socket closed, or could not be opened. */
  closed(code) {
    if (this.state !== "connecting" && this.state !== "open") return [];
    const reason = REFUSALS.get(code);
    return reason ? this.refused(reason) : this.#wait([]);
  }

  /** The timer that was asked for ran out. */
  timedOut() {
    if (this.state === "connecting") return this.#wait([{ do: "disconnect" }]);
    return this.state === "waiting" ? this.#connect() : [];
  }

  /** The socket looks open but nothing comes back through it. */
  stalled() {
    return this.state === "open" ? this.#wait([{ do: "disconnect" }]) : [];
  }

  wentOffline() {
    if (this.state === "refused" || this.state === "idle") return [];
    return this.#enter("offline", [{ do: "disconnect" }, { do: "stop_timer" }]);
  }

  /** The network is back, the page is looked at again, or its computer woke up: no reason to wait any longer. */
  woke() {
    if (this.state !== "waiting" && this.state !== "offline") return [];
    this.attempt = 0;
    return this.#connect();
  }

  /** A person asks for another attempt; also the way out of "refused". */
  tryNow() {
    if (this.state === "connecting" || this.state === "open") return [];
    this.attempt = 0;
    return this.#connect();
  }

  refused(reason) {
    return this.#enter("refused", [{ do: "disconnect" }, { do: "stop_timer" }], reason);
  }

  #connect() {
    return this.#enter("connecting", [{ do: "connect" }, { do: "timer", ms: CONNECT_TIMEOUT_MS }]);
  }

  /** Exponential backoff; half of each delay is random, so that it is spread but never zero. */
  #wait(effects) {
    const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.attempt);
    this.attempt += 1;
    return this.#enter("waiting", [...effects, { do: "timer", ms: ceiling / 2 + (ceiling / 2) * this.#random() }]);
  }

  #enter(state, effects, reason = null) {
    this.state = state;
    this.reason = reason;
    return effects;
  }
}
