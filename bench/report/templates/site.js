// The public leaderboard: the filters hide rows, and the columns of other levels of knowledge.
const filters = document.getElementById("filters");
if (filters) {
  const table = document.getElementById("board");
  const show = () => {
    const asked = [...new FormData(filters)].filter(([, value]) => value !== "");
    const level = Object.fromEntries(asked).level;
    for (const cell of table.querySelectorAll("[data-level]"))
      cell.classList.toggle("off", level !== undefined && cell.dataset.level !== level);
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !asked.every(([name, value]) =>
        name === "level" ? row.dataset.levels.split(" ").includes(value) : row.dataset[name] === value);
      left += !row.hidden;
    }
    document.getElementById("left").textContent = `${left} of ${table.tBodies[0].rows.length} rows`;
  };
  filters.hidden = false;
  filters.addEventListener("change", show);
  filters.addEventListener("reset", () => setTimeout(show));
  filters.addEventListener("submit", (event) => event.preventDefault());
  show(); // a browser keeps the filters over a reload
}
