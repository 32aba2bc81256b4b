/** Joins the parts of the page. */

import { SupportClient } from "./client.js";
import { ComposerView } from "./composer_view.js";
import { LogView } from "./log_view.js";
import { socketAddress } from "./socket.js";
import { StatusView } from "./status_view.js";
import { TabMemory } from "./tab_memory.js";

const client = new SupportClient(socketAddress(), TabMemory.open());
const composer = new ComposerView({ onSay: say, onTyping: () => client.typing() });
const log = new LogView({
  retry: (id) => client.retry(id),
  stop: (id) => client.stop(id),
  rate: (id, score) => client.rate(id, score),
  leftProgress: () => composer.focus(),
});
const status = new StatusView({
  tryNow: () => client.tryNow(),
  startAnew: () => client.startAnew(),
  dismissed: () => composer.focus(),
});
/** From the loss of the connection until it is back; not while a page that opens connects for the first time. */
let lost = false;

function say(text) {
  client.say(text);
  log.toEnd();
}

function show() {
  log.show(client.conversation.exchanges(), lost);
}

client.addEventListener("state", ({ detail: { state, reason } }) => {
  if (state !== "connecting") lost = state !== "open";
  status.show(state, reason);
  composer.refuse(state === "refused");
  show();
});
client.addEventListener("exchange", show);
client.addEventListener("sync", ({ detail: { lost: historyLost } }) => {
  log.quietly(show);
  if (historyLost) status.notice("Earlier messages of this conversation can’t be shown any more.");
});
client.addEventListener("notice", ({ detail: { message } }) => status.notice(message));

for (const suggestion of document.querySelectorAll("[data-ask]")) {
  suggestion.addEventListener("click", () => {
    say(suggestion.dataset.ask);
    composer.focus();
  });
}

log.quietly(show);
client.start();
// On a touch screen this would raise the keyboard over the page before anything was read.
if (matchMedia("(pointer: fine)").matches) composer.focus();
