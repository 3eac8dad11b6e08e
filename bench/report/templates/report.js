"use strict";

// Tables: a heading's button sorts; a second press turns the order round. What is missing stays at the end.
const said = document.getElementById("said");

function sort(table, column, heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const figures = heading.classList.contains("figure");
  const value = (row) => {
    const text = figures ? row.cells[column].dataset.sort : row.cells[column].textContent.trim();
    return figures && text !== undefined ? Number(text) : text;
  };
  const compare = (a, b) => (figures ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: value(row) }));
  rows.sort((a, b) => {
    if (a.key === undefined || b.key === undefined) return (a.key === undefined) - (b.key === undefined);
    return ascending ? compare(a.key, b.key) : compare(b.key, a.key);
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
  const name = heading.textContent.trim();
  said.textContent = `Sorted by ${name}, ${ascending ? "ascending" : "descending"}`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sort(table, column, heading));
  });
}

// Reconstructions: the switches hide what was not asked for; the originals stay above what is left.
const switches = document.getElementById("switches");
if (switches) {
  const show = () => {
    const asked = new FormData(switches);
    const wants = (name, value) => asked.get(name) === "" || asked.get(name) === value;
    let shown = 0;
    for (const gallery of document.querySelectorAll(".gallery")) {
      let left = 0;
      for (const strip of gallery.querySelectorAll(".strip[data-level]")) {
        strip.hidden = !(wants("level", strip.dataset.level) && wants("attack", strip.dataset.attack));
        left += !strip.hidden;
      }
      gallery.hidden = !left || !wants("defense", gallery.dataset.defense);
      shown += gallery.hidden ? 0 : left;
    }
    document.getElementById("shown").textContent = `${shown} shown`;
  };
  switches.hidden = false;
  switches.addEventListener("change", show);
  switches.addEventListener("submit", (event) => event.preventDefault());
  show(); // a browser keeps the switches over a reload
}
