"use strict";
(() => {
  const root = document.documentElement;
  const remember = (key, value) => {
    try {
      if (value === undefined) return localStorage.getItem(key);
      localStorage.setItem(key, value);
    } catch { /* a page from disk may have no storage */ }
    return null;
  };

  // Light and dark: as the system says, until the button is used.
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  const known = remember("bertology-theme");
  if (known === "dark" || known === "light") root.dataset.theme = known;
  theme.hidden = false;
  name();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember("bertology-theme", root.dataset.theme);
    name();
  });

  // What stands behind closed rows is text to a browser that runs scripts, until a row is opened: thousands of elements
  // fewer. All of it was escaped when the page was written.
  function fill(details) {
    const found = details.querySelector(":scope > noscript");
    if (found) found.replaceWith(document.createRange().createContextualFragment(found.textContent));
  }
  const fillAll = () => { for (const each of document.querySelectorAll(".more details")) fill(each); };
  document.addEventListener("toggle", (event) => { if (event.target.open) fill(event.target); }, true);

  // On paper everything is open.
  let closed = [];
  addEventListener("beforeprint", () => {
    fillAll();
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });

  const table = document.getElementById("table");
  if (!table) return;
  // Where narrow, rows are shown as cards; they are still a table to a screen reader.
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };
  for (const each of [table, ...table.querySelectorAll(":scope > *, :scope > * > tr, :scope > tbody > tr > td")]) each.setAttribute("role", roles[each.tagName]);
  for (const each of table.querySelectorAll(":scope > thead th")) each.setAttribute("role", "columnheader");
  for (const each of table.querySelectorAll(":scope > tbody > tr > th")) each.setAttribute("role", "rowheader");
  const form = document.getElementById("filters");
  const status = document.getElementById("shown");
  const nothing = document.getElementById("nothing");
  const openAll = document.getElementById("open-all");
  const rows = [...table.querySelectorAll("tbody.check")];
  const boxes = [...form.querySelectorAll("input[name=outcome]")];
  const heads = [...table.querySelectorAll("th[data-key]")];
  const numeric = new Set(["outcome", "observed", "score"]);
  const texts = new Map();
  const signs = { "&lt;": "<", "&gt;": ">", "&#34;": '"', "&#39;": "'", "&amp;": "&" };
  const text = (row) => {
    if (!texts.has(row)) {
      const filled = row.textContent.replace(/<[^>]*>/g, " ").replace(/&(?:lt|gt|amp|#3[49]);/g, (sign) => signs[sign]);
      texts.set(row, filled.toLowerCase());
    }
    return texts.get(row);
  };
  let sorted = { key: "outcome", descending: false };

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const again = sorted.key === head.dataset.key;
      sorted = { key: head.dataset.key, descending: again && !sorted.descending };
      sort();
      keep();
    });
  }

  function sort() {
    const value = (row) => {
      const found = row.querySelector(`.c-${sorted.key}`).dataset.sort;
      if (!numeric.has(sorted.key)) return found.toLowerCase();
      return found === "" ? NaN : Number(found);
    };
    const keyed = rows.map((row, index) => ({ row, index, key: value(row) }));
    const sign = sorted.descending ? -1 : 1;
    keyed.sort((a, b) => {
      const emptyA = a.key === "" || Number.isNaN(a.key), emptyB = b.key === "" || Number.isNaN(b.key);
      if (emptyA || emptyB) return emptyA - emptyB || a.index - b.index; // nothing to sort by: at the end
      const order = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
      return sign * order || a.index - b.index;
    });
    table.append(...keyed.map(({ row }) => row));
    for (const head of heads) {
      if (head.dataset.key === sorted.key) head.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    form.sort.value = sorted.key === "outcome" || sorted.descending ? "" : sorted.key;
  }

  function filter() {
    const outcomes = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = form.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const { outcome, check, model } = row.dataset;
      const fits = (!outcomes.size || outcomes.has(outcome))
        && (!form.check.value || form.check.value === check)
        && (!form.model.value || form.model.value === model)
        && (!words.length || words.every((word) => text(row).includes(word)));
      row.hidden = !fits;
      count += fits;
    }
    status.textContent = count === rows.length ? `${count} row${count === 1 ? "" : "s"}` : `${count} of ${rows.length} rows shown`;
    nothing.hidden = count > 0;
    table.hidden = count === 0;
  }

  // What is filtered and sorted is in the address, so that it can be sent to somebody.
  function keep() {
    const found = new URLSearchParams();
    const outcomes = boxes.filter((box) => box.checked).map((box) => box.value);
    if (outcomes.length) found.set("outcome", outcomes.join(","));
    for (const field of ["check", "model", "q"]) if (form[field].value) found.set(field, form[field].value);
    if (sorted.key !== "outcome" || sorted.descending) found.set("sort", (sorted.descending ? "-" : "") + sorted.key);
    const hash = found.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  function restore() {
    const target = location.hash.slice(1);
    if (target && !target.includes("=")) return;
    const found = new URLSearchParams(target);
    const outcomes = (found.get("outcome") || "").split(",");
    for (const box of boxes) box.checked = outcomes.includes(box.value);
    for (const field of ["check", "model", "q"]) form[field].value = found.get(field) || "";
    for (const field of ["check", "model"]) if (form[field].selectedIndex < 0) form[field].value = "";
    const by = found.get("sort") || "outcome";
    const key = by.replace(/^-/, "");
    sorted = heads.some((head) => head.dataset.key === key) ? { key, descending: by.startsWith("-") } : { key: "outcome", descending: false };
    sort();
    filter();
  }

  function reset() {
    for (const box of boxes) box.checked = false;
    for (const field of ["check", "model", "q"]) form[field].value = "";
    sorted = { key: "outcome", descending: false };
    sort();
    filter();
    keep();
  }

  form.addEventListener("input", (event) => {
    if (event.target.name === "sort") {
      sorted = { key: event.target.value || "outcome", descending: false };
      sort();
    } else filter();
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); reset(); });
  document.getElementById("reset").addEventListener("click", () => { reset(); form.q.focus(); });
  openAll.addEventListener("click", () => {
    const open = openAll.textContent === "Open all";
    for (const row of rows) if (!row.hidden) row.querySelector("details").open = open;
    openAll.textContent = open ? "Close all" : "Open all";
  });
  // A link to what lies in closed details opens them.
  addEventListener("hashchange", () => {
    const target = location.hash.slice(1);
    if (target.includes("=")) return restore();
    if (target && !document.getElementById(target)) fillAll();
    const found = target && document.getElementById(target);
    if (!found) return;
    for (let each = found; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
    found.scrollIntoView({ block: "center" });
  });
  form.hidden = false;
  restore();
  filter();
})();
