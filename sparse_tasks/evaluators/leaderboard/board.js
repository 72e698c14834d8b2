// Filters and sorts the tables, which are complete and readable without it. What is chosen stands in the address after
// the "#", so that a view can be shared.
(() => {
  "use strict";
  const LEFT = 6; // columns before those of the lengths, which have two each
  const form = document.getElementById("filter");
  const status = document.getElementById("shown");
  const field = (name) => form.elements.namedItem(name);
  const fields = ["q", "model", "method", "phase", "asked", "length"];

  const byText = new Intl.Collator("en", { sensitivity: "base" }).compare;

  const number = (text) => {
    const found = /-?\d+(\.\d+)?/.exec(text.replace("\u2212", "-"));
    return found ? Number(found[0]) : NaN;
  };

  const tables = [...document.querySelectorAll("table.board")].map((table) => {
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows].map((row) => {
      const texts = [...row.cells].map((cell) => cell.textContent.trim());
      return { row, texts, words: texts.slice(0, 3).join(" ").toLowerCase() };
    });
    const lengths = (table.dataset.lengths || "").split(" ").filter(Boolean);
    return { table, section: table.closest("section"), heads, rows, lengths, sort: null };
  });

  const phases = {
    prefill: (texts) => number(texts[4]) > 0,
    decode: (texts) => number(texts[5]) > 0,
    dense: (texts) => texts[2] === "dense",
  };

  function fill(name, values, compare) {
    for (const value of [...new Set(values)].sort(compare)) field(name).add(new Option(value, value));
  }

  function filter() {
    const chosen = Object.fromEntries(fields.map((name) => [name, field(name).value]));
    const words = chosen.q.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    let all = 0;
    for (const { table, section, rows, lengths } of tables) {
      const at = lengths.indexOf(chosen.length);
      table.dataset.only = chosen.length && at >= 0 ? at + 1 : "";
      let here = 0;
      for (const { row, texts, words: own } of rows) {
        const fits =
          words.every((word) => own.includes(word)) &&
          (!chosen.model || texts[1] === chosen.model) &&
          (!chosen.method || texts[2] === chosen.method) &&
          (!chosen.asked || texts[3] === chosen.asked) &&
          (!chosen.phase || phases[chosen.phase](texts)) &&
          (!chosen.length || (at >= 0 && !Number.isNaN(number(texts[LEFT + 2 * at]))));
        row.hidden = !fits;
        here += fits;
      }
      section.hidden = !here && rows.length > 0;
      shown += here;
      all += rows.length;
    }
    status.textContent = `${shown} of ${all} runs shown`;
  }

  function order(entry, column, down) {
    const numeric = column > 2;
    const key = ({ texts }) => (numeric ? number(texts[column] || "") : texts[column]);
    const keyed = entry.rows.map((one) => [key(one), one]);
    keyed.sort(([a], [b]) => {
      if (!numeric) return (down ? -1 : 1) * byText(a, b);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what is missing comes last
      return down ? b - a : a - b;
    });
    const body = document.createDocumentFragment();
    for (const [, { row }] of keyed) body.append(row);
    entry.table.tBodies[0].append(body);
    entry.heads.forEach((head) => head.removeAttribute("aria-sort"));
    entry.heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    entry.sort = [column, down];
  }

  function unordered(entry) {
    entry.table.tBodies[0].append(...entry.rows.map(({ row }) => row));
    entry.heads.forEach((head) => head.removeAttribute("aria-sort"));
    entry.sort = null;
  }

  function remember() {
    const state = new URLSearchParams();
    for (const name of fields) if (field(name).value) state.set(name, field(name).value);
    tables.forEach(({ sort }, i) => sort && state.set(`sort${i + 1}`, (sort[1] ? "-" : "") + (sort[0] + 1)));
    try {
      history.replaceState(null, "", String(state) ? `#${state}` : location.pathname + location.search);
    } catch {
      // a browser that does not let a file's address change goes on without
    }
  }

  function recall() {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of fields) {
      field(name).value = state.get(name) || "";
      if (field(name).selectedIndex === -1) field(name).value = "";
    }
    tables.forEach((entry, i) => {
      const column = Math.abs(Number(state.get(`sort${i + 1}`))) - 1;
      if (entry.heads[column]) order(entry, column, state.get(`sort${i + 1}`).startsWith("-"));
      else if (entry.sort) unordered(entry);
    });
    filter();
  }

  for (const entry of tables) {
    entry.heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const again = entry.sort && entry.sort[0] === column;
        order(entry, column, again ? !entry.sort[1] : column > 2);
        remember();
      });
    });
  }
  const rows = tables.flatMap((entry) => entry.rows);
  fill("model", rows.map(({ texts }) => texts[1]), byText);
  fill("method", rows.map(({ texts }) => texts[2]), byText);
  fill("asked", rows.map(({ texts }) => texts[3]).filter((text) => !Number.isNaN(number(text))), (a, b) => a - b);
  const tokens = (label) => Number.parseInt(label, 10) * (label.endsWith("M") ? 2 ** 20 : label.endsWith("k") ? 2 ** 10 : 1);
  fill("length", tables.flatMap(({ lengths }) => lengths), (a, b) => tokens(a) - tokens(b));

  let waiting = 0;
  const changed = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { filter(); remember(); }, 120);
  };
  form.addEventListener("input", changed);
  form.addEventListener("reset", changed); // the fields are empty by then
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", recall);
  document.documentElement.classList.add("js");
  form.hidden = false;
  recall();
})();
