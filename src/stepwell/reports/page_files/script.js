// Filters the queries won and lost: by system, by outcome, by the words of their texts.
"use strict";
for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...form.parentElement.querySelectorAll(".answer")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const told = form.querySelector("output");
  const filter = () => {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { value: system } = form.elements.system;
    const { value: outcome } = form.elements.outcome;
    let shown = 0;
    rows.forEach((row, at) => {
      const fits =
        (!system || row.dataset.system === system) &&
        (!outcome || row.dataset.outcome === outcome) &&
        words.every((word) => texts[at].includes(word));
      row.hidden = !fits;
      shown += fits;
    });
    told.textContent = `${shown} of ${rows.length} shown`;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
