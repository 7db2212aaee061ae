"use strict";
// Tables sort by a click on a heading; figures are saved alone. Without this script the page says the same.
(() => {
  const number = (text) => {
    const first = text.trim().replace(/^−/, "-").match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/);
    return first ? parseFloat(first[0]) : null;
  };
  const own = (cell) => { // what it is sorted by: its figure or name, without what is small and an arm's sign
    const copy = cell.cloneNode(true);
    for (const part of copy.querySelectorAll("small, .key")) part.remove();
    return copy.textContent.trim();
  };

  const sort = (table, column, heading) => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [own(row.cells[column]), row]);
    const known = keyed.filter(([text]) => text !== "–" && text !== "");
    const numeric = known.every(([text]) => number(text) !== null);
    const rank = numeric ? ([a], [b]) => number(a) - number(b)
      : ([a], [b]) => a.localeCompare(b, "en", { numeric: true });
    known.sort(rank);
    if (descending) known.reverse();
    const unknown = keyed.filter(([text]) => text === "–" || text === "");
    for (const [, row] of [...known, ...unknown]) body.append(row);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };

  for (const table of document.querySelectorAll("table")) {
    if (!table.tHead || table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, column, heading));
      heading.append(button);
    });
  }

  // Paper cannot be scrolled: a table that is wider goes on below itself, its names in front again.
  const PAPER = 1050; // pixels of the screen that a line of A4 holds, whose letters are smaller
  const parts = (table) => {
    const heads = [...table.tHead.rows[0].cells], widths = heads.map((head) => head.offsetWidth);
    const names = Math.max(1, heads.findIndex((head, i) => i && !head.matches(".name, .text")));
    const room = PAPER - widths.slice(0, names).reduce((a, b) => a + b, 0), groups = [[]];
    let left = room;
    for (let i = names; i < heads.length; i += 1) {
      if (widths[i] > left && groups.at(-1).length) { groups.push([]); left = room; }
      groups.at(-1).push(i);
      left -= widths[i];
    }
    return groups.map((group) => {
      const part = table.cloneNode(true);
      for (const row of part.rows)
        [...row.cells].forEach((cell, i) => { if (i >= names && !group.includes(i)) cell.remove(); });
      return part;
    });
  };
  addEventListener("beforeprint", () => {
    for (const table of document.querySelectorAll(".wide > table")) {
      if (table.offsetWidth <= PAPER || [...table.rows].some((row) => row.querySelector("[colspan]"))) continue;
      const pieces = document.createElement("div");
      pieces.className = "pieces";
      pieces.append(...parts(table));
      table.hidden = true;
      table.after(pieces);
    }
  });
  addEventListener("afterprint", () => {
    for (const pieces of document.querySelectorAll(".pieces")) {
      pieces.previousElementSibling.hidden = false;
      pieces.remove();
    }
  });

  // The figure as a file of its own: the page's colours and font are written into it.
  const standalone = (svg) => {
    const style = getComputedStyle(document.documentElement);
    const copy = svg.cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.setAttribute("font-family", "DejaVu Sans, Helvetica, Arial, sans-serif");
    const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["width", width], ["height", height], ["fill", "var(--paper)"]])
      paper.setAttribute(name, value);
    copy.prepend(paper);
    const text = new XMLSerializer().serializeToString(copy);
    return { width, height, text: text.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim()) };
  };
  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const asSvg = (svg, name) => save(new Blob([standalone(svg).text], { type: "image/svg+xml" }), `${name}.svg`);
  const asPng = (svg, name) => {
    const { width, height, text } = standalone(svg);
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = 3 * width;
      canvas.height = 3 * height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  };

  for (const figure of document.querySelectorAll("figure")) {
    const svg = figure.querySelector("svg");
    if (!svg) continue;
    const buttons = document.createElement("div");
    buttons.className = "save";
    buttons.append("Save as");
    for (const [label, write] of [["SVG", asSvg], ["PNG", asPng]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.setAttribute("aria-label", `save this figure as ${label}`);
      button.addEventListener("click", () => write(svg, figure.id));
      buttons.append(button);
    }
    figure.append(buttons);
  }
})();
