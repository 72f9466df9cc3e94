(() => {
  const table = document.getElementById("atlas"), find = document.getElementById("find");
  const chosen = ["verdict", "corrected", "group"].map((name) => document.getElementById(name));
  const shown = document.getElementById("shown");
  const groups = [...table.tBodies], rows = [...table.querySelectorAll("tr.row")];
  const home = new Map(rows.map((row) => [row, row.parentNode]));
  const sorted = table.createTBody();
  const apply = () => {
    const words = find.value.toLowerCase();
    let visible = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(words)
        || chosen.some((each) => each.value !== "" && row.dataset[each.id] !== each.value);
      visible += !row.hidden;
    }
    const ordered = table.classList.toggle("ordered", !sorted.rows.length && visible === rows.length);
    for (const cell of table.querySelectorAll("[data-rows]")) cell.rowSpan = ordered ? cell.dataset.rows : 1;
    for (const each of groups) each.hidden = ![...each.querySelectorAll("tr.row")].some((row) => !row.hidden);
    shown.textContent = `${visible} of ${rows.length} variants`;
  };
  const value = (row, column) => row.cells[column].dataset.sort;
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numeric = !isNaN(a) && !isNaN(b);
    return sign * (numeric ? a - b : a.localeCompare(b));
  };
  [...table.tHead.rows[0].cells].forEach((th, column) => th.querySelector("button").addEventListener("click", () => {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[th.getAttribute("aria-sort")];
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    th.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const order = (a, b) => compare(value(a, column), value(b, column), sign) || a.dataset.place - b.dataset.place;
    if (next === "none") for (const row of rows) home.get(row).append(row);
    else sorted.append(...[...rows].sort(order));
    apply();
  }));
  find.addEventListener("input", apply);
  for (const control of chosen) control.addEventListener("change", apply);
  apply();
})();
