/** The state of the connection in words, and what a person can do about it. */

const SHORT = {
  idle: "Connecting…",
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Reconnecting…",
  offline: "Offline",
  refused: "Not connected",
};

const BANNERS = {
  waiting: {
    text: "The connection was lost. We keep trying, and what you write is sent as soon as it is back.",
    action: "Try now",
  },
  offline: { text: "You are offline. What you write is kept here and sent once you are back.", action: "Try now" },
  token: { text: "This conversation has expired and can’t be continued.", action: "Start a new conversation" },
  deleted: { text: "This conversation was deleted.", action: "Start a new conversation" },
  forbidden: { text: "The support service does not accept connections from this address.", action: "Try again" },
  protocol: { text: "The support service and this page don’t understand each other. Reloading it may help.", action: "Try again" },
};

const STARTS_ANEW = new Set(["token", "deleted"]);
/** The first attempt after a short loss mostly succeeds: no banner jumps in before that. */
const PATIENCE_MS = 1_500;

export class StatusView {
  #status = document.getElementById("status");
  #banner = document.getElementById("banner");
  #bannerText = document.getElementById("banner-text");
  #bannerAction = document.getElementById("banner-action");
  #notice = document.getElementById("notice");
  #noticeText = document.getElementById("notice-text");
  #wanted = null;
  #patience = null;

  /** @param {{tryNow: () => void, startAnew: () => void, dismissed: () => void}} actions */
  constructor(actions) {
    this.#bannerAction.addEventListener("click", () => {
      if (STARTS_ANEW.has(this.#wanted)) actions.startAnew();
      else actions.tryNow();
      actions.dismissed();
    });
    document.getElementById("notice-close").addEventListener("click", () => {
      this.#notice.hidden = true;
      actions.dismissed();
    });
  }

  /** @param {string} state @param {string | null} reason see `Connection` */
  show(state, reason) {
    this.#status.dataset.state = state;
    if (this.#status.textContent !== SHORT[state]) this.#status.textContent = SHORT[state];
    // Between two attempts the banner stays as it is instead of flickering.
    if (state === "connecting" && this.#wanted === "waiting") return;
    const wanted = reason ?? (state in BANNERS ? state : null);
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    clearTimeout(this.#patience);
    if (wanted === "waiting") this.#patience = setTimeout(() => this.#showBanner(), PATIENCE_MS);
    else this.#showBanner();
  }

  notice(text) {
    this.#noticeText.textContent = text;
    this.#notice.hidden = false;
  }

  #showBanner() {
    const banner = BANNERS[this.#wanted];
    this.#banner.hidden = banner === undefined;
    this.#bannerText.textContent = banner?.text ?? "";
    this.#bannerAction.textContent = banner?.action ?? "";
  }
}
