"use strict";
// Tables: sorting by a column, filtering by words, a first page of long ones. Figures: drawn in the colours of the theme.
(() => {
  const PAGE = 60; // rows of a table that are shown at first

  function keyOf(cell) {
    const text = cell.dataset.key ?? cell.textContent;
    const number = text.trim() === "" ? NaN : Number(text);
    return { text, number };
  }

  // Numbers before words, and nothing last whatever the direction.
  function compare(a, b, sign) {
    const empty = (a.text === "") - (b.text === "");
    if (empty) return empty;
    const [p, q] = [Number.isNaN(a.number), Number.isNaN(b.number)];
    if (p !== q) return p - q;
    return sign * (p ? a.text.localeCompare(b.text, "en", { numeric: true }) : a.number - b.number);
  }

  function setUp(box) {
    const body = box.querySelector("tbody");
    const heads = [...box.querySelectorAll("thead th")];
    const [input, status, all] = ["input", "[role=status]", ".all"].map((one) => box.querySelector(one));
    const rows = [...body.rows];
    const words = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
    const found = new Map(rows.map((row, k) => [row, words[k]]));
    let whole = false;

    function show() {
      const asked = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let matching = 0;
      for (const row of body.rows) {
        const fits = asked.every((word) => found.get(row).includes(word));
        matching += fits;
        row.hidden = !fits || (!whole && matching > PAGE);
      }
      const shown = whole ? matching : Math.min(matching, PAGE);
      status.textContent = matching === rows.length && shown === matching
        ? `${rows.length} row${rows.length === 1 ? "" : "s"}`
        : `${shown} of ${matching} rows shown` + (matching < rows.length ? `, ${rows.length} in all` : "");
      all.hidden = whole || matching <= PAGE;
    }

    function sort(column) {
      const up = heads[column].getAttribute("aria-sort") !== "ascending";
      heads.forEach((head, k) => (k === column
        ? head.setAttribute("aria-sort", up ? "ascending" : "descending")
        : head.removeAttribute("aria-sort")));
      const keyed = rows.map((row) => [row, keyOf(row.cells[column])]);
      keyed.sort((a, b) => compare(a[1], b[1], up ? 1 : -1));
      body.append(...keyed.map(([row]) => row));
      show();
    }

    heads.forEach((head, k) => head.querySelector("button").addEventListener("click", () => sort(k)));
    input.addEventListener("input", show);
    all.addEventListener("click", () => { whole = true; show(); });
    show();
  }

  document.querySelectorAll(".table").forEach(setUp);

  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const config = {
    responsive: true, displaylogo: false, displayModeBar: true, showSendToCloud: false, // data stays on this machine
    modeBarButtonsToRemove: ["lasso2d", "select2d"],
  };

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // Words in lines of about so many letters; names in figures are escaped already, so a break between words is safe.
  function wrapped(text, letters) {
    const lines = [""];
    for (const word of text.split(" ")) {
      const last = lines.length - 1;
      if (lines[last] && lines[last].length + word.length >= letters) lines.push(word);
      else lines[last] += (lines[last] && " ") + word;
    }
    return lines.join("<br>");
  }

  const isNarrow = (place) => place.clientWidth < 640;

  function inTheme(layout, place) {
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const narrow = isNarrow(place);
    const themed = {
      margin: { l: 10, r: 10, t: 36, b: 40 },
      legend: { orientation: "h", x: 0, xanchor: "left", y: -0.02, yref: "container", yanchor: "bottom" },
      showlegend: true, dragmode: narrow ? false : "zoom", hovermode: "closest",
      ...layout,
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, DejaVu Sans, sans-serif", size: narrow ? 11 : 13, color: colour("--front") },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--front") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--front"), orientation: "h" },
    };
    for (const name of Object.keys(themed).filter((key) => /^[xy]axis/.test(key))) {
      const axis = themed[name];
      const broken = (axis.categoryarray ?? []).map((one) => [one, one.replace("/", "/<br>")]);
      themed[name] = {
        gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--soft"),
        ...axis,
        ...(axis.title ? { title: { text: wrapped(axis.title.text, narrow ? 30 : 44) } } : {}),
        ...(narrow ? { labelalias: Object.fromEntries(broken) } : {}),
      };
    }
    return themed;
  }

  const drawn = new Set();
  function draw(place) {
    const { data, layout } = figures[Number(place.dataset.figure)];
    drawn.add(place);
    if (isNarrow(place)) {
      // The legend has a line for each name there.
      const names = data.filter((trace) => trace.showlegend !== false && layout.showlegend !== false).length;
      place.style.height = `${place.clientHeight + 18 * names}px`;
    }
    return Plotly.react(place, data, inTheme(layout, place), config);
  }

  function dress() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark()));
    drawn.forEach((place) => Plotly.relayout(place, inTheme(figures[Number(place.dataset.figure)].layout, place)));
  }

  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; dress(); });
  system.addEventListener("change", dress);
  dress();

  // A figure is drawn when it comes near, so that a page of many opens at once.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting && !drawn.has(one.target))) {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  const places = document.querySelectorAll(".figure");
  places.forEach((place) => watcher.observe(place));
  window.addEventListener("beforeprint", () => places.forEach((place) => drawn.has(place) || draw(place)));
})();
