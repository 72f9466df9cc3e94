(() => { // a section opens where a link or the address leads to it, and all of them for a print
  const parts = [...document.querySelectorAll("details.part")], all = document.getElementById("all");
  const target = (hash) => document.getElementById(decodeURIComponent(hash.slice(1).split("?")[0]));
  const reveal = (found) => {
    for (let node = found; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    const own = found?.querySelector(":scope > details.part");
    if (own) own.open = true;
    found?.scrollIntoView();
  };
  const told = () => { all.textContent = parts.every((part) => part.open) ? "Close all" : "Open all"; };
  const toggle = (open) => parts.forEach((part) => { part.open = open; });
  all.addEventListener("click", () => toggle(!parts.every((part) => part.open)));
  parts.forEach((part) => part.addEventListener("toggle", told));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link) reveal(target(link.hash)); // also where the address has it already
  });
  addEventListener("hashchange", () => reveal(target(location.hash)));
  let closed = [];
  addEventListener("beforeprint", () => { closed = parts.filter((part) => !part.open); toggle(true); });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
  if (location.hash) reveal(target(location.hash));
})();
(() => {
  const [find, seed, arm, show, sort, list, shown] =
    ["find", "seed", "arm", "show", "sort", "posts", "shown"].map((id) => document.getElementById(id));
  if (!find) return;
  const controls = { find, seed, arm, show, sort }, { reference } = list.dataset;
  const posts = [...list.children];
  const of = (cell, name) => parseFloat(cell?.dataset[name]);
  const tests = {
    "": () => true,
    wins: (cell) => of(cell, "win") === 1,
    loses: (cell) => of(cell, "win") === 0,
    above: (cell, base) => of(cell, "judge") > of(base, "judge"),
    below: (cell, base) => of(cell, "judge") < of(base, "judge"),
    open: (cell) => cell.dataset.ended === "0",
  };
  const keys = {
    gain: (cell, base) => of(cell, "score") - of(base, "score"),
    loss: (cell, base) => of(base, "score") - of(cell, "score"),
    kl: (cell) => of(cell, "kl"),
    length: (cell) => of(cell, "length"),
  };
  const lower = (part) => part.textContent.toLowerCase();

  const applyTo = (post) => {
    const words = find.value.toLowerCase(), told = lower(post.querySelector("summary")) + lower(post.querySelector(".query"));
    const inPost = (told + lower(post.querySelector(".own"))).includes(words);
    let largest = -Infinity;
    for (const row of post.querySelectorAll("[data-seed]")) {
      const arms = [...row.querySelectorAll("[data-arm]")];
      const base = arms.find((cell) => cell.dataset.arm === reference);
      const hits = arms.filter((cell) => (!arm.value || cell.dataset.arm === arm.value) && tests[show.value](cell, base));
      const found = inPost || [...row.querySelectorAll(".text")].some((part) => lower(part).includes(words));
      row.hidden = (seed.value !== "" && row.dataset.seed !== seed.value) || !hits.length || !found;
      if (row.hidden || !sort.value) continue;
      largest = Math.max(largest, ...hits.map((cell) => keys[sort.value](cell, base)).filter((value) => !isNaN(value)));
    }
    post.hidden = !post.querySelector("[data-seed]:not([hidden])");
    return [post, largest];
  };
  const apply = () => {
    const ranked = posts.map(applyTo);
    if (sort.value) ranked.sort((one, other) => other[1] - one[1] || 0);
    list.append(...ranked.map(([post]) => post));
    shown.textContent = `${posts.filter((post) => !post.hidden).length} of ${posts.length} posts`;
  };

  const kept = new URLSearchParams(location.hash.split("?")[1] ?? "");
  for (const [name, control] of Object.entries(controls)) {
    if (kept.has(name)) control.value = kept.get(name);
    if (control.selectedIndex === -1) control.selectedIndex = 0;
    control.addEventListener("input", () => {
      const set = Object.entries(controls).map(([key, { value }]) => [key, value]);
      history.replaceState(null, "", `#samples?${new URLSearchParams(set)}`);
      apply();
    });
  }
  apply();
})();
