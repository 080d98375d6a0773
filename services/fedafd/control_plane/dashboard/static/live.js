// Keeps a page up to date: when the stream says that something changed, the page is fetched again, and each part that
// is marked with data-live and differs is replaced. Clocks tick. Without scripts a page is right as of its loading.
"use strict";

const PAUSE_MS = 1000;
const RETRY_MS = 10000;
let stream = null;
let busy = false;
let again = false;

function words(seconds) {
  const s = Math.max(seconds, 0);
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} days`;
}

// The server's clock counts: a browser's own may be wrong.
let ahead = 0;

function tick() {
  for (const each of document.querySelectorAll("time[data-since]")) {
    const text = words((Date.now() - ahead - Date.parse(each.dateTime)) / 1000);
    if (each.textContent !== text) each.textContent = text;
  }
}

function lost(is) {
  document.getElementById("lost").hidden = !is;
}

function replace(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    // What somebody is writing in, or about to press, stays under their hands.
    if (!next || part.innerHTML === next.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    if (focused && /^(INPUT|SELECT|TEXTAREA)$/.test(focused.tagName)) continue;
    const name = focused && focused.id;
    if (next.dataset.say && next.dataset.say !== part.dataset.say) document.getElementById("said").textContent = next.dataset.say;
    const open = [...part.querySelectorAll("details[open][id]")].map((each) => each.id);
    part.replaceWith(next);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (name) document.getElementById(name)?.focus();
  }
  tick();
}

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
    if (answer.redirected) return location.reload();
    lost(!answer.ok);
    if (answer.ok) {
      const date = Date.parse(answer.headers.get("date"));
      if (date && Math.abs(Date.now() - date) > 2000) ahead = Date.now() - date;
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    }
  } catch {
    lost(true);
  } finally {
    setTimeout(() => {
      busy = false;
      if (again) {
        again = false;
        refresh();
      }
    }, PAUSE_MS);
  }
}

// A hidden page holds no connection: a browser has six for all tabs.
function follow() {
  if (document.hidden || !document.body.dataset.stream) {
    stream?.close();
    stream = null;
    return;
  }
  if (stream) return;
  stream = new EventSource(document.body.dataset.stream);
  stream.addEventListener("changed", refresh);
  stream.addEventListener("over", () => location.reload());
  stream.addEventListener("open", refresh);
  stream.addEventListener("error", () => {
    lost(true);
    if (stream && stream.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(() => {
        refresh();
        follow();
      }, RETRY_MS);
    }
  });
}

// A question before what cannot be undone.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});
document.addEventListener("visibilitychange", follow);
setInterval(tick, 1000);
tick();
follow();
