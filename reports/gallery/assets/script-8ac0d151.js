(() => {
  const find = document.getElementById("find"), verdict = document.getElementById("verdict");
  if (!find) return;
  const cards = [...document.querySelectorAll(".card")], shown = document.getElementById("shown");
  const apply = () => {
    const words = find.value.toLowerCase();
    for (const card of cards) {
      card.hidden = !card.textContent.toLowerCase().includes(words)
        || (verdict.value !== "" && !card.dataset.verdicts.split("|").includes(verdict.value));
    }
    for (const group of document.querySelectorAll(".group")) {
      group.hidden = ![...group.querySelectorAll(".card")].some((card) => !card.hidden);
    }
    shown.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} studies`;
  };
  find.addEventListener("input", apply);
  verdict.addEventListener("change", apply);
  apply();
})();
