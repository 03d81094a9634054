"use strict";
for (const panel of document.querySelectorAll(".panel")) {
  for (const plane of panel.querySelectorAll(".plane")) {
    const slider = plane.querySelector("input"), slices = plane.dataset.slices.split(" ");
    const show = () => {
      const index = Number(slider.value);
      for (const picture of plane.querySelectorAll("img"))
        picture.style.transform = `translateY(${(-100 * index) / slices.length}%)`;
      plane.querySelector("output").textContent = slices[index];
      slider.setAttribute("aria-valuetext", `slice ${slices[index]}`);
    };
    slider.value = slider.dataset.start;
    slider.addEventListener("input", show);
    show();
  }
  const choose = (attribute, shown) => {
    for (const picture of panel.querySelectorAll(`img[${attribute}]`))
      picture.hidden = !shown(picture.getAttribute(attribute));
  };
  const channel = panel.querySelector("[data-channel]");
  if (channel) {
    const show = () => choose("data-of-channel", (of) => of === channel.value);
    channel.addEventListener("change", show);
    show();
  }
  const boxes = [...panel.querySelectorAll("[data-mask]")];
  const show = () => choose("data-of-mask", (of) => boxes[Number(of)].checked);
  for (const box of boxes) box.addEventListener("change", show);
  show();
}
const ledgers = [...document.querySelectorAll(".ledger")];
if (ledgers.length) {
  const [round, used, filter, count] = ["round", "used", "filter", "count"].map((name) =>
    document.getElementById(`ledger-${name}`));
  const update = () => {
    const wanted = filter.value.toLowerCase();
    for (const ledger of ledgers) {
      ledger.hidden = ledger.dataset.round !== round.value;
      if (ledger.hidden) continue;
      const rows = [...ledger.querySelectorAll("tbody tr")];
      for (const row of rows)
        row.hidden = (used.value && row.dataset.used !== used.value) || !row.textContent.toLowerCase().includes(wanted);
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    }
  };
  for (const control of [round, used, filter]) control.addEventListener("input", update);
  update();
  for (const ledger of ledgers) {
    const heads = [...ledger.querySelectorAll("th")], body = ledger.querySelector("tbody");
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = ({ cells: { [column]: cell } }) => cell.dataset.value ?? cell.textContent;
      const order = (one, two) => {
        // What is empty comes last either way.
        if (!text(one) || !text(two)) return !text(one) - !text(two);
        const numbers = [Number(text(one)), Number(text(two))];
        const result = numbers.some(Number.isNaN) ? text(one).localeCompare(text(two)) : numbers[0] - numbers[1];
        return down ? -result : result;
      };
      body.append(...[...body.rows].sort(order));
    }));
  }
}
