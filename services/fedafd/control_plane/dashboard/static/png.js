// A figure as a picture: its drawing with the colours that the page shows, on a canvas, as a PNG to keep.
// Without scripts there is no button for it; the numbers are there as CSV.
"use strict";

const SCALE = 2;
const HEAD = 30;
const SVG = "http://www.w3.org/2000/svg";
const KEPT = ["fill", "stroke", "stroke-width", "font-size", "font-family", "text-anchor"];

// Attributes, not styles: a drawing on its own has no style sheet, and the page's policy allows none within it.
function painted(svg) {
  const copy = svg.cloneNode(true);
  const parts = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((each, number) => {
    const style = getComputedStyle(parts[number]);
    for (const name of KEPT) each.setAttribute(name, style.getPropertyValue(name));
  });
  const { width, height } = svg.viewBox.baseVal;
  const paper = document.createElementNS(SVG, "rect");
  const card = getComputedStyle(svg.closest("section"));
  for (const [name, value] of Object.entries({ x: 0, y: -HEAD, width, height: height + HEAD, fill: card.backgroundColor })) paper.setAttribute(name, value);
  const title = document.createElementNS(SVG, "text");
  title.textContent = svg.dataset.title;
  for (const [name, value] of Object.entries({ x: 10, y: -10, fill: card.color, "font-size": "14px", "font-family": card.fontFamily })) title.setAttribute(name, value);
  copy.prepend(paper, title);
  copy.setAttribute("viewBox", `0 ${-HEAD} ${width} ${height + HEAD}`);
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", width * SCALE);
  copy.setAttribute("height", (height + HEAD) * SCALE);
  return copy;
}

async function keep(svg, name) {
  const copy = painted(svg);
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = Number(copy.getAttribute("width"));
  canvas.height = Number(copy.getAttribute("height"));
  canvas.getContext("2d").drawImage(picture, 0, 0);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-png]");
  if (button) keep(document.getElementById(button.dataset.png).querySelector("svg"), button.dataset.file);
});
document.documentElement.classList.add("js");
