// Try the model: asks without loading the page again, asks again while the public set is prepared, takes a dropped
// picture and shows it. Without scripts the form loads the page with its answer.
"use strict";

const ASK_AGAIN_MS = 2000;
const form = document.getElementById("try");
let asking = 0;

function results() {
  return document.getElementById("results");
}

function say(words) {
  document.getElementById("said").textContent = words;
}

function shown(page) {
  const fresh = page.getElementById("results");
  if (fresh) return fresh;
  // Another page than asked for says why, such as that the form is too old.
  const kept = results().cloneNode();
  kept.removeAttribute("data-preparing");
  const words = document.createElement("p");
  words.className = "box bad";
  words.setAttribute("role", "alert");
  words.textContent = page.querySelector("main")?.textContent.trim() || "Something went wrong.";
  kept.append(words);
  return kept;
}

async function ask(by) {
  const mine = ++asking;
  const fields = new FormData(form);
  fields.set("by", by);
  say("Looking");
  results().setAttribute("aria-busy", "true");
  for (;;) {
    let answer;
    let text;
    try {
      answer = await fetch(form.action, { method: "POST", body: fields, credentials: "same-origin" });
      text = await answer.text();
    } catch {
      if (mine === asking) {
        lost(true);
        results().removeAttribute("aria-busy");
      }
      return;
    }
    if (mine !== asking) return;
    lost(false);
    if (answer.redirected) return location.reload();
    const next = shown(new DOMParser().parseFromString(text, "text/html"));
    results().replaceWith(next);
    say(next.dataset.say || "");
    if (!next.hasAttribute("data-preparing")) return;
    await new Promise((done) => setTimeout(done, ASK_AGAIN_MS));
    if (mine !== asking) return;
  }
}

function preview(file) {
  const image = document.getElementById("preview");
  image.hidden = true;
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    image.src = reader.result;
    image.hidden = false;
  });
  reader.readAsDataURL(file);
}

if (form) {
  const picture = document.getElementById("picture");
  const drop = document.getElementById("drop");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(event.submitter?.value || "caption");
  });
  picture.addEventListener("change", () => preview(picture.files[0]));
  document.getElementById("preview").addEventListener("error", (event) => (event.target.hidden = true));
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    picture.files = event.dataTransfer.files;
    preview(picture.files[0]);
    ask("picture");
  });
}
document.documentElement.classList.add("js");
