"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const rows = data.rows.map((values) => Object.fromEntries(values.map((value, index) => [data.columns[index], value])));

  // Theme: the system's unless the reader chose; a file opened from disk may have no storage.
  const theme = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("bench-theme"); } catch { return null; } };
  const remember = (name) => { try { localStorage.setItem("bench-theme", name); } catch { /* not kept */ } };
  const current = () => document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  const nameTheme = () => { theme.textContent = current() === "dark" ? "Light" : "Dark"; theme.setAttribute("aria-label", `Use the ${theme.textContent.toLowerCase()} theme`); };
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = current() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    remember(next);
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
  nameTheme();

  // Sorting: numbers by the raw value in data-v, words by themselves; what was not measured stays at the end either way.
  const table = byId("table");
  const body = table.tBodies[0];
  const lines = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (line, index, numeric) => {
    const cell = line.cells[index];
    if (!numeric) return cell.textContent === "–" ? null : cell.textContent;
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const sortBy = (index, descending) => {
    const numeric = heads[index].classList.contains("num");
    const keyed = lines.map((line, place) => ({ line, place, value: valueOf(line, index, numeric) }));
    keyed.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
      return (descending ? -1 : 1) * compare(a.value, b.value) || a.place - b.place;
    });
    body.append(...keyed.map((item) => item.line));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.first === "descending";
      sortBy(index, now === null ? first : now === "ascending");
    });
  });

  // Filtering.
  const filters = ["dataset", "strategy", "status"];
  const texts = new Map();
  // The text of thousands of rows is taken when first asked for, not at every key.
  const textOf = (line) => texts.get(line) ?? (texts.set(line, line.textContent.toLowerCase()), texts.get(line));
  const apply = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const line of lines) {
      const fits = words.every((word) => textOf(line).includes(word))
        && filters.every((name) => !byId(name).value || line.dataset[name] === byId(name).value);
      line.hidden = !fits;
      shown += fits;
    }
    byId("shown").textContent = shown === lines.length ? `${shown} rows` : `${shown} of ${lines.length} rows`;
  };
  byId("filters").hidden = false;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", apply);
  filters.forEach((name) => byId(name).addEventListener("change", apply));
  byId("more").addEventListener("change", (event) => table.classList.toggle("fewer", !event.target.checked));
  apply();

  // Saving the embedded rows, unrounded and in base units.
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const quote = (value) => (value === null ? "" : /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  byId("save-json").addEventListener("click", () => save("results.json", "application/json", JSON.stringify(rows, null, 2)));
  byId("save-csv").addEventListener("click", () => {
    const names = Object.keys(rows[0]);
    const text = [names.join(","), ...rows.map((row) => names.map((name) => quote(row[name])).join(","))];
    save("results.csv", "text/csv", text.join("\n") + "\n");
  });

  // Tips: the titles of marks, at once and on touch; without this script they are plain titles.
  const tip = byId("tip");
  document.querySelectorAll(".mark > title").forEach((title) => {
    const mark = title.parentNode;
    mark.dataset.tip = title.textContent;
    title.remove();
  });
  let told = null;
  const place = () => {
    tip.hidden = !told;
    if (!told) return;
    tip.textContent = told.dataset.tip;
    const box = told.getBoundingClientRect();
    const left = Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 6)}px`;
  };
  const point = (event) => {
    told = event.target.closest ? event.target.closest(".mark[data-tip]") : null;
    place();
  };
  document.addEventListener("pointerover", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("scroll", place, { passive: true, capture: true });
})();
