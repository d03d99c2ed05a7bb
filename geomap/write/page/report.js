"use strict";
// The report page of a run: draws its maps from the pixels in the page, and answers from them. No library, no request.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);

  // --- text and numbers, always as text: names come from whoever typed them

  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined).map((c) => (c instanceof Node ? c : String(c))));
    return made;
  }
  const fixed = (value, digits) =>
    new Intl.NumberFormat(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
  const whole = (value) => fixed(value, 0);
  const percent = (share) => `${fixed(100 * share, 1)}\u00a0%`;
  const hectares = (pixels) => (pixels * data.pixel_m2) / 1e4;
  const size = (bytes) => (bytes < 1e6 ? `${fixed(bytes / 1e3, 1)} kB` : `${fixed(bytes / 1e6, 1)} MB`);
  const day = (text) => {
    const date = new Date(text.length === 7 ? `${text}-15T00:00:00Z` : text);
    const shape = text.length === 7 ? { month: "long", year: "numeric" } : { dateStyle: "medium" };
    return new Intl.DateTimeFormat("en-GB", { ...shape, timeZone: "UTC" }).format(date);
  };

  // --- pixels: base64 of a zlib stream in the page -> bytes

  async function unpack(id) {
    const holder = at(id);
    const packed = Uint8Array.from(atob(holder.textContent.trim()), (c) => c.charCodeAt(0));
    holder.remove();
    if (holder.type === "image/jpeg") return createImageBitmap(new Blob([packed], { type: "image/jpeg" }));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  const rasters = new Map();
  for (const map of data.maps) if (map.month) map.title = `${map.title}, ${day(map.month)}`;
  const pixels = (stem) => rasters.get(`${stem}-${zone.epsg}`);
  const maps = new Map(data.maps.map((map) => [map.stem, map]));

  // --- what the user chose

  let zone = data.zones[0];
  const chosen = { left: data.maps[0].stem, right: "", least: 0, lit: null, swipe: 0.5, kept: null };
  const off = new Map(data.maps.map((map) => [map.stem, new Set()]));
  const view = { x: 0, y: 0, scale: 1, wide: 1, high: 1, sharp: 1, whole: true };
  const SHEET = { wide: 688, high: 446 }; // CSS pixels of 182 x 118 mm, the map on an A4

  // --- colours

  const RAMP = data.ramp;
  const NONE = 0x00000000;
  const FADED = 0xffe9e6e4; // bytes of a pixel in memory: alpha, blue, green, red
  const packed = (r, g, b) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
  const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  function ramp(share) {
    const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
    const low = Math.min(Math.floor(place), RAMP.length - 2);
    return RAMP[low].map((c, i) => Math.round(c + (RAMP[low + 1][i] - c) * (place - low)));
  }
  function table(map) {
    const colours = new Uint32Array(256).fill(NONE);
    if (map.kind === "classes") {
      for (const c of map.classes) {
        const out = off.get(map.stem).has(c.id) || (chosen.lit !== null && chosen.lit.stem === map.stem && chosen.lit.id !== c.id);
        colours[c.id] = out ? FADED : packed(...channels(c.colour));
      }
      return colours;
    }
    for (let code = 0; code < 255; code++) colours[code] = packed(...ramp(share(map, code)));
    return colours;
  }
  const share = (map, code) => (value(map, code) - map.range[0]) / (map.range[1] - map.range[0] || 1);
  const value = (map, code) => (map.steps ? map.range[0] + (code / map.steps) * (map.range[1] - map.range[0]) : code);

  function painted(stem) {
    const map = maps.get(stem);
    const ids = pixels(stem);
    if (map.kind === "picture") return ids;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [zone.width, zone.height];
    const image = new ImageData(zone.width, zone.height);
    const out = new Uint32Array(image.data.buffer);
    const colours = table(map);
    const sure = map.confidence && chosen.least > 0 ? pixels(map.confidence) : null;
    for (let i = 0; i < ids.length; i++) out[i] = colours[ids[i]];
    if (sure) for (let i = 0; i < ids.length; i++) if (out[i] !== NONE && sure[i] < chosen.least) out[i] = FADED;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // --- the canvas

  const canvas = at("map");
  const pen = canvas.getContext("2d");
  let pictures = { left: null, right: null };
  let waiting = false;
  const later = () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  };
  function repaint() {
    pictures = { left: painted(chosen.left), right: chosen.right ? painted(chosen.right) : null };
    at("swipe").hidden = !chosen.right;
    later();
  }
  const screenX = (x) => (x - view.x) * view.scale + view.wide / 2;
  const screenY = (y) => (y - view.y) * view.scale + view.high / 2;

  function draw() {
    pen.setTransform(view.sharp, 0, 0, view.sharp, 0, 0);
    pen.clearRect(0, 0, view.wide, view.high);
    pen.imageSmoothingEnabled = false;
    const middle = chosen.right ? chosen.swipe * view.wide : view.wide;
    show(pictures.left, 0, middle);
    if (pictures.right) {
      show(pictures.right, middle, view.wide);
      pen.fillStyle = "#ffffff";
      pen.fillRect(middle - 1.5, 0, 3, view.high);
    }
    if (chosen.kept) frame(chosen.kept.column, chosen.kept.row);
    if (document.activeElement === canvas && canvas.matches(":focus-visible")) cross();
    scaleBar();
  }
  function show(picture, from, to) {
    pen.save();
    pen.beginPath();
    pen.rect(from, 0, to - from, view.high);
    pen.clip();
    const [x, y] = [screenX(0), screenY(0)];
    pen.drawImage(picture, x, y, zone.width * view.scale, zone.height * view.scale);
    pen.restore();
  }
  function frame(column, row) {
    const side = Math.max(view.scale, 7);
    const [x, y] = [screenX(column + 0.5) - side / 2, screenY(row + 0.5) - side / 2];
    for (const [colour, width] of [["#ffffff", 5], ["#000000", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.strokeRect(x, y, side, side);
    }
  }
  function cross() {
    pen.strokeStyle = "#000000";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(view.wide / 2 - 9, view.high / 2);
    pen.lineTo(view.wide / 2 + 9, view.high / 2);
    pen.moveTo(view.wide / 2, view.high / 2 - 9);
    pen.lineTo(view.wide / 2, view.high / 2 + 9);
    pen.stroke();
  }
  function scaleBar() {
    const longest = (Math.min(160, view.wide / 3) / view.scale) * zone.metres;
    const power = 10 ** Math.floor(Math.log10(longest));
    const metres = [5, 2, 1].map((step) => step * power).find((length) => length <= longest);
    const width = (metres / zone.metres) * view.scale;
    const label = metres >= 1000 ? `${whole(metres / 1000)} km` : `${fixed(metres, metres < 1 ? 2 : 0)} m`;
    pen.font = "600 12px system-ui, 'Liberation Sans', sans-serif";
    pen.textAlign = "center";
    const bottom = view.high - 10;
    plate(8, bottom - 30, Math.max(width, pen.measureText(label).width) + 20, 34);
    const left = 18;
    pen.fillText(label, left + width / 2, bottom - 13);
    pen.fillRect(left, bottom - 8, width, 5);
    plate(view.wide - 36, 8, 28, 40);
    pen.fillText("N", view.wide - 22, 43);
    pen.beginPath();
    pen.moveTo(view.wide - 22, 12);
    pen.lineTo(view.wide - 16, 30);
    pen.lineTo(view.wide - 28, 30);
    pen.fill();
    const two = chosen.right ? `, compared with ${maps.get(chosen.right).title}` : "";
    canvas.setAttribute("aria-label", `Map: ${maps.get(chosen.left).title}${two}. The scale bar is ${label} long.`);
  }
  function plate(x, y, wide, high) {
    pen.fillStyle = "rgba(255, 255, 255, 0.88)";
    pen.fillRect(x, y, wide, high);
    pen.fillStyle = "#1b1f24";
  }

  function resize(wide = at("stage").clientWidth, high = at("stage").clientHeight, sharp = window.devicePixelRatio || 1) {
    Object.assign(view, { wide, high, sharp });
    [canvas.width, canvas.height] = [Math.round(wide * sharp), Math.round(high * sharp)];
    if (view.whole) fit();
    draw();
  }
  function fit() {
    const scale = Math.min(view.wide / zone.width, view.high / zone.height) * 0.97;
    Object.assign(view, { x: zone.width / 2, y: zone.height / 2, scale, whole: true });
    later();
  }
  function print() { // what is on the screen, at the size of the sheet and sharper
    const { scale, wide, high } = view;
    view.scale = scale * Math.min(SHEET.wide / wide, SHEET.high / high);
    resize(SHEET.wide, SHEET.high, 3);
    window.addEventListener("afterprint", () => { view.scale = scale; resize(); }, { once: true });
  }
  function zoom(factor, x = view.wide / 2, y = view.high / 2) {
    const least = Math.min(view.wide / zone.width, view.high / zone.height) / 4;
    const scale = Math.min(Math.max(view.scale * factor, least), 60);
    view.x += (x - view.wide / 2) * (1 / view.scale - 1 / scale);
    view.y += (y - view.high / 2) * (1 / view.scale - 1 / scale);
    Object.assign(view, { scale, whole: false });
    later();
  }
  function move(x, y) {
    view.whole = false;
    view.x = Math.min(Math.max(view.x - x / view.scale, 0), zone.width);
    view.y = Math.min(Math.max(view.y - y / view.scale, 0), zone.height);
    later();
  }
  function place(x, y) {
    const column = Math.floor((x - view.wide / 2) / view.scale + view.x);
    const row = Math.floor((y - view.high / 2) / view.scale + view.y);
    const inside = column >= 0 && row >= 0 && column < zone.width && row < zone.height;
    return inside ? { column, row, index: row * zone.width + column } : null;
  }

  // --- a pixel in words

  // UTM to degrees by Krueger's series to the third order (Karney 2011, doi:10.1007/s00190-011-0445-3); below 1 mm.
  function degrees(east, north) {
    const f = 1 / 298.257223563;
    const n = f / (2 - f);
    const radius = (6378137 / (1 + n)) * (1 + n ** 2 / 4 + n ** 4 / 64) * 0.9996;
    const beta = [n / 2 - (2 / 3) * n ** 2 + (37 / 96) * n ** 3, n ** 2 / 48 + n ** 3 / 15, (17 / 480) * n ** 3];
    const delta = [2 * n - (2 / 3) * n ** 2 - 2 * n ** 3, (7 / 3) * n ** 2 - (8 / 5) * n ** 3, (56 / 15) * n ** 3];
    const south = zone.epsg >= 32700 ? 1e7 : 0;
    const [xi, eta] = [(north - south) / radius, (east - 5e5) / radius];
    let [x, y] = [xi, eta];
    beta.forEach((b, i) => {
      x -= b * Math.sin(2 * (i + 1) * xi) * Math.cosh(2 * (i + 1) * eta);
      y -= b * Math.cos(2 * (i + 1) * xi) * Math.sinh(2 * (i + 1) * eta);
    });
    const chi = Math.asin(Math.sin(x) / Math.cosh(y));
    const latitude = delta.reduce((sum, d, i) => sum + d * Math.sin(2 * (i + 1) * chi), chi);
    const longitude = ((zone.epsg % 100) * 6 - 183) + (Math.atan2(Math.sinh(y), Math.cos(x)) * 180) / Math.PI;
    return [((longitude + 540) % 360) - 180, (latitude * 180) / Math.PI];
  }
  function where(found) {
    const east = zone.west + (found.column + 0.5) * zone.metres;
    const north = zone.north - (found.row + 0.5) * zone.metres;
    const [lon, lat] = degrees(east, north);
    return { utm: `EPSG:${zone.epsg} ${east} ${north}`, lonlat: `${lon.toFixed(5)}, ${lat.toFixed(5)}` };
  }
  function said(map, index) {
    const code = pixels(map.stem)[index];
    if (map.kind === "classes") {
      const found = map.classes.find((c) => c.id === code);
      if (!found) return null;
      return map.confidence ? `${found.name}, confidence ${pixels(map.confidence)[index]}\u00a0%` : found.name;
    }
    if (code === 255) return null;
    if (map.kind === "percent") return `${code}\u00a0%`;
    return map.kind === "count" ? `${code} of ${data.months.length}` : fixed(value(map, code), map.kind === "likeness" ? 2 : 1);
  }
  function lines(found) {
    const own = new Set(data.maps.map((map) => map.confidence));
    const told = data.maps.filter((map) => map.kind !== "picture" && !own.has(map.stem));
    return told.map((map) => [map.title, said(map, found.index)]).filter(([, text]) => text !== null);
  }
  function hover(found) {
    const text = at("here");
    if (!found) { text.textContent = "\u00a0"; return; }
    const told = lines(found).map(([title, words]) => `${title}: ${words}`);
    const { utm, lonlat } = where(found);
    text.textContent = [...(told.length ? told : ["not mapped"]), `${lonlat} (${utm})`].join(" · ");
  }
  function keep(found) {
    chosen.kept = found;
    const box = at("kept");
    box.hidden = !found;
    box.replaceChildren();
    if (found) {
      const close = el("button", { type: "button", "aria-label": "Forget this pixel" }, "×");
      close.addEventListener("click", () => keep(null));
      const list = el("dl");
      const { utm, lonlat } = where(found);
      const told = lines(found);
      for (const [title, words] of [...(told.length ? told : [["Map", "not mapped"]]), ["Longitude, latitude", lonlat], ["East, north (m)", utm]]) {
        list.append(el("dt", {}, title), el("dd", {}, words));
      }
      box.append(el("h2", {}, "This pixel", close), list);
      const curve = ndvi(found);
      if (curve) box.append(el("h3", {}, "Greenness (NDVI) by month"), curve);
    }
    later();
  }
  function ndvi(found) {
    const grid = zone.ndvi;
    if (!grid) return null;
    const codes = rasters.get(`ndvi-${zone.epsg}`);
    const [column, row] = [Math.floor(found.column / grid.step), Math.floor(found.row / grid.step)];
    if (column >= grid.width || row >= grid.height) return null;
    const values = data.months.map((_, i) => codes[(i * grid.height + row) * grid.width + column]);
    const known = values.map((code) => (code === 255 ? null : code / 100 - 0.25)); // 0.01 a step from -0.25 on
    return chart(known.map((v) => [v]), { low: -0.2, high: 1, lines: true, name: "NDVI" });
  }

  // --- charts: bars or a line over the months

  function svg(tag, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, v] of Object.entries(attributes)) made.setAttribute(name, v);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const initial = (month) => new Intl.DateTimeFormat("en-GB", { month: "short", timeZone: "UTC" }).format(new Date(`${month}-15T00:00:00Z`));
  function chart(rows, { low = 0, high, lines: line = false, name, colours = ["#0a53a8", "#b9c4cf"] }) {
    const [wide, tall, left, bottom] = [380, 140, 34, 20];
    const whole_ = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": name });
    const y = (v) => 8 + (1 - (v - low) / (high - low || 1)) * (tall - bottom - 8);
    const step = (wide - left) / rows.length;
    for (const v of [low, (low + high) / 2, high]) {
      whole_.append(svg("line", { x1: left, x2: wide, y1: y(v), y2: y(v), stroke: "#d0d7de" }));
      whole_.append(svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, fixed(v, high - low > 4 ? 0 : 1)));
    }
    let path = "";
    rows.forEach((row, i) => {
      const x = left + (i + 0.5) * step;
      whole_.append(svg("text", { x, y: tall - 4, "text-anchor": "middle" }, initial(data.months[i])));
      if (line && row[0] !== null) {
        path += `${path === "" || rows[i - 1][0] === null ? "M" : "L"}${x} ${y(row[0])}`;
        const dot = svg("circle", { cx: x, cy: y(row[0]), r: 3, fill: colours[0] });
        dot.append(svg("title", {}, `${day(data.months[i])}: ${fixed(row[0], 2)}`));
        whole_.append(dot);
      }
      let base = low;
      if (!line) row.forEach((v, k) => {
        const bar = svg("rect", { x: x - step * 0.35, width: step * 0.7, y: y(base + v), height: y(base) - y(base + v), fill: colours[k] });
        bar.append(svg("title", {}, `${day(data.months[i])}: ${whole(v)}`));
        whole_.append(bar);
        base += v;
      });
    });
    if (line) whole_.append(svg("path", { d: path, fill: "none", stroke: colours[0], "stroke-width": 2 }));
    return whole_;
  }

  // --- legend and areas

  const span = ([first, last]) => (first === last ? day(first) : `${day(first)} to ${day(last)}`);
  function brief([first, last]) { // "2023" or "Mar 2023 – Feb 2024"
    const month = (text) => new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric", timeZone: "UTC" }).format(new Date(`${text}-15T00:00:00Z`));
    if (first.endsWith("-01") && last === `${first.slice(0, 4)}-12`) return first.slice(0, 4);
    return first === last ? month(first) : `${month(first)} – ${month(last)}`;
  }
  const past = (map) => data.facts.before.filter((run) => map.stem in run.pixels); // earlier runs, oldest first

  function shown(map, id) { // pixels of a class that are switched on and sure enough
    const counts = map.table[id];
    if (off.get(map.stem).has(id)) return 0;
    return map.confidence ? counts.slice(chosen.least).reduce((sum, n) => sum + n, 0) : counts.reduce((sum, n) => sum + n, 0);
  }
  function legend() {
    const map = maps.get(chosen.left);
    at("legend-title").textContent = map.title;
    const box = at("legend");
    box.replaceChildren();
    const classes = map.kind === "classes";
    at("least-box").hidden = !(classes && map.confidence);
    at("areas-csv").parentElement.hidden = !classes;
    at("honest").hidden = !classes;
    const found = data.assessed[map.stem];
    at("honest").textContent = !found ? data.facts.honest : ofPart(found) ? data.facts.of_part : byChance(found) ? data.facts.estimated : data.facts.not_by_chance;
    box.classList.toggle("long", classes && map.classes.length > 10);
    if (classes) box.append(classTable(map));
    else if (map.kind !== "picture") box.append(...rampLegend(map));
  }
  function classTable(map) {
    const found = data.assessed[map.stem];
    const estimated = new Map((found && !ofPart(found) ? found.classes : []).map((c) => [c.id, c.area_ha]));
    const intervals = estimated.size > 0;
    const run = past(map).at(-1);
    const before = run?.pixels[map.stem];
    const when = before ? `Hectares from ${span(run.months)}, by the run before` : "";
    const head = el("tr", {}, el("th", { scope: "col" }, ""), el("th", { scope: "col" }, "Class"),
      el("th", { scope: "col", class: "number" }, "Hectares"), before ? el("th", { scope: "col", class: "number", title: when, "aria-label": when }, "Before") : null, intervals ? el("th", { scope: "col", class: "number" }, "Estimate") : null,
      el("th", { scope: "col", class: "number" }, "Share"));
    const body = el("tbody");
    const total = map.classes.reduce((sum, c) => sum + c.pixels, 0) || 1;
    for (const c of map.classes) {
      const tick = el("input", { type: "checkbox", "aria-label": `Show ${c.name}` });
      tick.checked = !off.get(map.stem).has(c.id);
      tick.addEventListener("change", () => {
        off.get(map.stem)[tick.checked ? "delete" : "add"](c.id);
        legendNumbers(map);
        repaint();
      });
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = c.colour;
      const name = el("td", {}, swatch, " ", el("span", { class: "name" }, c.name), c.code ? el("span", { class: "code" }, ` ${c.code}`) : null);
      const row = el("tr", { "data-id": c.id }, el("td", {}, tick), name, el("td", { class: "number ha" }),
        before ? el("td", { class: "number before" }, fixed(hectares(before[c.id] ?? 0), 2)) : null, intervals ? el("td", { class: "number estimate" }, withInterval(estimated.get(c.id), 2)) : null, el("td", { class: "number share" }));
      for (const [event, lit] of [["pointerenter", true], ["pointerleave", false], ["focusin", true], ["focusout", false]]) {
        row.addEventListener(event, () => light(map, lit ? c.id : null));
      }
      body.append(row);
    }
    const foot = el("tfoot", {}, el("tr", {}, el("td"), el("td", {}, "Shown"), el("td", { class: "number", id: "shown-ha" }), before ? el("td") : null,
      intervals ? el("td") : null, el("td", { class: "number", id: "shown-share" })));
    const made = el("table", {}, before ? el("caption", { class: "quiet" }, `Before: ${when}.`) : null, el("thead", {}, head), body, foot);
    queueMicrotask(() => legendNumbers(map, total));
    return made;
  }
  function withInterval(estimate, digits, times = 1) { // of an assessment: a value and half its interval of 95 %
    if (!estimate) return "";
    const value = fixed(estimate.value * times, digits);
    return `${value} ± ${estimate.ci95 === null ? "?" : fixed(estimate.ci95 * times, digits)}`;
  }
  function legendNumbers(map, total = map.classes.reduce((sum, c) => sum + c.pixels, 0) || 1) {
    let all = 0;
    for (const c of map.classes) {
      const row = at("legend").querySelector(`tr[data-id="${c.id}"]`);
      const pixelsShown = shown(map, c.id);
      all += pixelsShown;
      row.querySelector(".ha").textContent = fixed(hectares(pixelsShown), 2);
      row.querySelector(".share").textContent = percent(pixelsShown / total);
      row.classList.toggle("off", off.get(map.stem).has(c.id));
    }
    at("shown-ha").textContent = fixed(hectares(all), 2);
    at("shown-share").textContent = percent(all / total);
  }
  function light(map, id) {
    const lit = id === null ? null : { stem: map.stem, id };
    if (lit?.id === chosen.lit?.id && lit?.stem === chosen.lit?.stem) return;
    chosen.lit = lit;
    for (const row of at("legend").querySelectorAll("tbody tr")) row.classList.toggle("lit", Number(row.dataset.id) === id);
    repaint();
  }
  function rampLegend(map) {
    const bar = el("div", { class: "ramp" });
    bar.style.background = `linear-gradient(to right, ${RAMP.map((c) => `rgb(${c})`).join(", ")})`;
    const unit = { percent: " %", count: " months" }[map.kind] ?? "";
    const digits = map.kind === "likeness" ? 2 : 0;
    const ends = el("div", { class: "ends" }, el("span", {}, fixed(map.range[0], digits) + unit), el("span", {}, fixed(map.range[1], digits) + unit));
    const mean = map.mean === null ? null : el("p", { class: "quiet" }, `Mean ${fixed(map.mean, map.kind === "likeness" ? 2 : 1)}${unit}, from ${fixed(map.low, 1)} to ${fixed(map.top, 1)}.`);
    return [bar, ends, ...(mean ? [mean] : [])];
  }

  // --- files made in the page

  function save(name, type, text) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  const cell = (text) => { // a name that a spreadsheet would take for a formula stays text
    const plain = /^[=+\-@\t\r]/.test(text) && typeof text === "string" ? `'${text}` : String(text);
    return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const csv = (rows) => rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
  function areasCsv() {
    const map = maps.get(chosen.left);
    const total = map.classes.reduce((sum, c) => sum + c.pixels, 0) || 1;
    const rows = map.classes.map((c) => [c.id, c.name, shown(map, c.id)]).map(([id, name, n]) => [id, name, n, hectares(n).toFixed(2), (n / total).toFixed(6)]);
    save(`${map.stem}_areas.csv`, "text/csv", csv([["id", "name", "pixels", "ha", "share"], ...rows]));
  }
  function placesCsv() {
    const rows = data.places.map((p, i) => [i + 1, p.lon.toFixed(6), p.lat.toFixed(6), p.name, p.confidence, ""]);
    save("places.csv", "text/csv", csv([["number", "lon", "lat", "mapped", "confidence", "class"], ...rows]));
  }
  function placesGpx() {
    const root = document.implementation.createDocument("http://www.topografix.com/GPX/1/1", "gpx");
    root.documentElement.setAttribute("version", "1.1");
    root.documentElement.setAttribute("creator", "geomap");
    data.places.forEach((p, i) => {
      const point = root.createElementNS("http://www.topografix.com/GPX/1/1", "wpt");
      point.setAttribute("lat", p.lat.toFixed(6));
      point.setAttribute("lon", p.lon.toFixed(6));
      for (const [tag, text] of [["name", String(i + 1)], ["desc", `${p.name}, confidence ${p.confidence} %`]]) {
        const child = root.createElementNS("http://www.topografix.com/GPX/1/1", tag);
        child.textContent = text;
        point.append(child);
      }
      root.documentElement.append(point);
    });
    save("places.gpx", "application/gpx+xml", `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(root)}\n`);
  }

  // --- the text around the map

  function list(items) { return el("ul", {}, ...items.map((item) => el("li", {}, item))); }
  function grid(heads, rows, numeric = []) {
    const kind = (i) => (numeric.includes(i) ? { class: "number" } : {});
    return el("div", { class: "scroll", tabindex: "0" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { scope: "col", ...kind(i) }, h)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((c, i) => el("td", kind(i), c)))))));
  }
  function folded(title, ...children) { at("facts").append(el("details", {}, el("summary", {}, title), ...children)); }
  function pairs(entries) { return el("dl", {}, ...entries.flatMap(([name, words]) => [el("dt", {}, name), el("dd", {}, words)])); }

  function around() {
    const { facts } = data;
    const [first, last] = [data.months[0], data.months.at(-1)];
    at("subtitle").textContent = [facts.place, first === last ? day(first) : `${day(first)} to ${day(last)}`, `Sentinel-2, ${whole(data.zones[0].pixel)}\u00a0m`].join(" · ");
    if (facts.warning) { at("warning").textContent = facts.warning; at("warning").hidden = false; }
    const reduced = data.zones.filter((z) => z.reduced > 1);
    at("reduced").hidden = !reduced.length;
    at("reduced").textContent = reduced.length ? `This page shows a reduced map: each of its pixels is ${reduced[0].reduced} x ${reduced[0].reduced} pixels of the map, classes by the commonest of them. The areas are those of the full map, which lies beside this page.` : "";
    at("not").append(list([...facts.validation.map(validated), facts.confidence].filter(Boolean)));
    if (facts.limits.length) at("not").append(el("details", {}, el("summary", {}, "Where the weights fail"), list(facts.limits)));
    const places = at("places");
    if (data.places.length) {
      const [gpx, table_] = [el("button", { type: "button", id: "gpx" }, "GPX"), el("button", { type: "button", id: "places-csv" }, "CSV")];
      gpx.addEventListener("click", placesGpx);
      table_.addEventListener("click", placesCsv);
      places.append(el("p", {}, data.places_are),
        el("p", {}, "For a phone or a table: ", gpx, " ", table_));
      places.append(el("ol", {}, ...data.places.map((p) => {
        const go = el("button", { type: "button", class: "go" }, `${p.lon.toFixed(5)}, ${p.lat.toFixed(5)}`);
        go.addEventListener("click", () => goTo(p));
        return el("li", {}, go, ` ${p.name}, ${p.confidence}\u00a0%`);
      })));
    } else places.append(el("p", {}, "No map of classes with a confidence was made."));
    at("cite").append(...facts.cite.map((line) => el("p", {}, line)));
  }
  function goTo(p) {
    setZone(data.zones.find((z) => z.epsg === p.epsg));
    setLayer(p.stem);
    Object.assign(view, { x: p.column + 0.5, y: p.row + 0.5, scale: Math.max(view.scale, 6), whole: false });
    keep({ column: p.column, row: p.row, index: p.row * zone.width + p.column });
    at("look").scrollIntoView({ block: "start" });
  }
  function operators() {
    const { facts } = data;
    if (facts.sky.length) {
      folded("Clear sky by month", el("p", {}, "Percent of the pixels that were seen clear at least once in the month."),
        chart(facts.sky.map((v) => [100 * v]), { high: 100, name: "Clear sky by month" }));
    }
    const months = data.months.map((m) => facts.scenes.filter((s) => s.month === m));
    if (facts.scenes.length) {
      const counts = months.map((scenes) => [scenes.filter((s) => s.clear).length, scenes.filter((s) => !s.clear).length]);
      folded("Scenes by month", el("p", {}, "Scenes with clear pixels in the area (dark), and without (light)."),
        chart(counts, { high: Math.max(...counts.map(([a, b]) => a + b), 1), name: "Scenes by month" }),
        grid(["Month", "With clear pixels", "Without"], counts.map(([a, b], i) => [day(data.months[i]), whole(a), whole(b)]), [1, 2]));
      folded("Scenes used and left out", el("p", {}, facts.account),
        grid(["Scene", "Time", "Satellite", "Baseline", "DN offset, and why", "Use"],
          facts.scenes.map((s) => [s.id, day(s.time), s.platform, s.baseline ?? "", s.offset, s.use])),
        ...(facts.left_out.length ? [el("h3", {}, "Items of the search that are no scene of a map"), grid(["Item", "Cause", "Detail"], facts.left_out)] : []),
        ...(facts.missed.length ? [el("h3", {}, "Scenes left out of some tiles"), grid(["Scene", "Band", "Cause", "Detail"], facts.missed)] : []));
    }
    if (facts.quarantined.length) folded("Tiles that could not be made", grid(["Tile", "Error"], facts.quarantined));
    for (const map of data.maps) if (past(map).length) history(map);
    for (const change of data.changes) {
      folded(`Changes: ${change.title}`, grid(["From", "To", "Hectares"], change.rows.map(([a, b, n]) => [a, b, fixed(hectares(n), 2)]), [2]));
    }
    if (facts.trust) taught(facts.trust);
    for (const [stem, found] of Object.entries(data.assessed)) if (maps.has(stem)) assessment(maps.get(stem), found);
    const copy = el("button", { type: "button" }, "Copy");
    copy.addEventListener("click", () => navigator.clipboard?.writeText(facts.command).then(() => { copy.textContent = "Copied"; }));
    folded("How to make it again", ...(facts.command ? [el("pre", { id: "command" }, facts.command), el("p", {}, copy), el("p", { class: "quiet" }, facts.needs)] : []),
      pairs(facts.made), el("h3", {}, "Versions"), pairs(facts.software));
    folded("Files", el("p", {}, "All their sha256, also those of stores, are in ", el("a", { href: "SHA256SUMS" }, "SHA256SUMS"), "; ", el("code", {}, "geomap verify"), " compares them."),
      grid(["File", "Size", "sha256"], facts.files.map(([name, bytes, sum]) => [el("a", { href: name.split("/").map(encodeURIComponent).join("/") }, name), bytes === null ? "" : size(bytes), el("code", {}, sum)]), [1]));
  }

  function history(map) { // areas of earlier runs, and of this one
    const runs = past(map);
    const now = Object.fromEntries(map.classes.map((c) => [c.id, c.pixels]));
    const columns = [...runs.map((run) => run.pixels[map.stem]), now];
    const other = runs.map((run) => run.other.includes(map.stem));
    const heads = [...runs.map((run, i) => `${brief(run.months)}${other[i] ? " *" : ""}`), `${brief([data.months[0], data.months.at(-1)])}, this map`];
    const rows = map.known.filter((c) => columns.some((of) => of[c.id])).map((c) => [c, columns.map((of) => of[c.id] ?? 0)]);
    rows.sort(([, a], [, b]) => b.at(-1) - a.at(-1));
    folded(`Areas over the runs: ${map.title}`,
      el("p", {}, `Hectares by this map and ${runs.length === 1 ? "the map" : `the ${runs.length} maps`} before it; each line runs from 0 to its largest area. Pixels were counted: part of what changes is error of the maps.${other.some(Boolean) ? " * Made in another way: area, weights, classes, points or options differ, or how much of the area is mapped." : ""}`),
      grid(["Class", "", ...heads], rows.map(([c, counts]) => [c.name, spark(c, counts), ...counts.map((n) => fixed(hectares(n), 2))]), heads.map((_, i) => i + 2)));
  }
  function spark(c, counts) {
    const [wide, tall, most] = [120, 26, Math.max(...counts)];
    const made = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": `${c.name}: ${counts.map((n) => fixed(hectares(n), 2)).join(", ")} hectares` });
    const at_ = counts.map((n, i) => [4 + (i * (wide - 8)) / (counts.length - 1), 4 + (1 - n / most) * (tall - 8)]);
    made.append(svg("path", { d: `M${at_.map((p) => p.join(" ")).join("L")}`, fill: "none", stroke: "#0a53a8", "stroke-width": 1.5 }));
    for (const [cx, cy] of at_) made.append(svg("circle", { cx, cy, r: 2, fill: "#0a53a8" }));
    return made;
  }
  function taught({ title, folds, kept, error, bins }) { // of the legend that points were given for
    const judged = kept ? "by the words alone, which are kept" : `in ${folds} parts, each judged by what was learned from the others`;
    folded(`How far its confidence can be trusted: ${title}`,
      el("p", {}, `From the labelled points, ${judged}. ${meaning("more pixels", error)} Points that were not drawn by chance say this of themselves alone.`),
      diagram("trust", bins, "pixels"), grid(["Confidence", "Right", "Pixels"], bins.map(([n, sure, right]) => [percent(sure), percent(right), whole(n)]), [0, 1, 2]));
  }
  function trust({ reliability: bins, calibration_error: error }, stem) { // of an assessment
    return [el("h3", {}, "How far its confidence can be trusted"),
      el("p", {}, `By the points, weighted as they were drawn. ${meaning("more points", error)}`),
      diagram(`trust-${stem}`, bins.map((bin) => [bin.points, bin.confidence, bin.right.value]), "points"),
      grid(["Confidence, %", "Right, %", "Points", "Share of the area, %"], bins.map((bin) => [fixed(100 * bin.confidence, 1), withInterval(bin.right, 1, 100), whole(bin.points), fixed(100 * bin.area_share, 1)]), [0, 1, 2, 3])];
  }
  const meaning = (larger, error) => `On the dashed line, confidence is the share of right pixels; below it, the map is surer than it should be. Larger dots: ${larger}.${error === null ? "" : ` Mean distance from the line (expected calibration error): ${percent(error)}.`}`;
  function diagram(id, bins, unit) { // of reliability: [number, confidence, share of right ones] for each bin
    const most = Math.max(...bins.map(([n]) => n));
    const said = ([n, sure, right]) => `confidence ${percent(sure)}: ${percent(right)} of ${whole(n)} ${unit} right`;
    const [side, left, bottom] = [240, 40, 34];
    const name = `Confidence and share of right pixels: ${bins.map(said).join("; ")}`;
    const made = svg("svg", { viewBox: `0 0 ${side + left} ${side + bottom}`, width: side + left, height: side + bottom, role: "img", "aria-label": name, id });
    const [x, y] = [(v) => left + v * (side - 8), (v) => 8 + (1 - v) * (side - 8)];
    for (const v of [0, 0.5, 1]) {
      made.append(svg("line", { x1: x(0), x2: x(1), y1: y(v), y2: y(v), stroke: "#d0d7de" }));
      made.append(svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, `${100 * v}`));
      made.append(svg("text", { x: x(v), y: side + 14, "text-anchor": v === 1 ? "end" : "middle" }, `${100 * v}`));
    }
    made.append(svg("line", { x1: x(0), x2: x(1), y1: y(0), y2: y(1), stroke: "#59636e", "stroke-dasharray": "4 3" }));
    made.append(svg("path", { d: `M${bins.map(([, sure, right]) => `${x(sure)} ${y(right)}`).join("L")}`, fill: "none", stroke: "#0a53a8", "stroke-width": 2 }));
    for (const bin of bins) {
      const dot = svg("circle", { cx: x(bin[1]), cy: y(bin[2]), r: 2 + 6 * Math.sqrt(bin[0] / most), fill: "#0a53a8" });
      dot.append(svg("title", {}, said(bin)));
      made.append(dot);
    }
    made.append(svg("text", { x: x(0.5), y: side + 30, "text-anchor": "middle" }, "confidence, %"));
    made.append(svg("text", { x: x(0) + 5, y: 18 }, "right, %"));
    return made;
  }
  function byChance(found) { // whether an assessment is by points that are known to be drawn so
    return found.probability_sample !== false;
  }
  function ofPart(found) { // whether its figures are of less than 95 % of the map
    return found.area_ha < 0.95 * (found.map_ha ?? 0);
  }
  function part(found) {
    return ofPart(found) ? ` of ${fixed(found.area_ha, 1)} of its ${fixed(found.map_ha, 1)} ha` : "";
  }
  function units(found) {
    return found.polygons ? `${whole(found.polygons)} polygons (${whole(found.points)} pixels)` : `${whole(found.points)} points`;
  }
  function drawn(found) {
    return byChance(found) ? "" : ", which are not known to be drawn by chance";
  }
  function validated({ stem, says, open }) { // how a legend was validated, and what points that were looked at say of its map
    const found = data.assessed[stem];
    if (!found) return `${says} ${open}`.trim();
    return `${says} This map was assessed with ${units(found)}${drawn(found)}: overall accuracy${part(found)} ${withInterval(found.overall_accuracy, 1, 100)} %. More below.`;
  }
  function assessment(map, found) {
    const classes = found.classes.map((c) => [c.name, withInterval(c.users_accuracy, 1, 100), withInterval(c.producers_accuracy, 1, 100),
      withInterval(c.area_ha, 2), whole(c.points_reference)]);
    const names = found.classes.map((c) => c.name);
    folded(`Assessment: ${map.title}`,
      el("p", {}, `${units(found)}${drawn(found)}: overall accuracy${part(found)} ${withInterval(found.overall_accuracy, 1, 100)} %. Half intervals of 95 % follow ±; ?: the points leave none; blank: nothing is known.`),
      grid(["Class", "User's accuracy, %", "Producer's accuracy, %", "Hectares", "Points on the ground"], classes, [1, 2, 3, 4]),
      el("h3", {}, "Confusion: mapped in rows, on the ground in columns, in points"),
      grid(["", ...names], found.confusion_points.map((row, i) => [names[i], ...row.map(whole)]), names.map((_, i) => i + 1)),
      ...(found.reliability ? trust(found, map.stem) : []),
      ...(found.notes.length ? [el("h3", {}, "What to know"), list(found.notes)] : []));
  }

  // --- events

  function setLayer(stem) {
    chosen.left = stem;
    at("layer").value = stem;
    chosen.lit = null;
    legend();
    repaint();
  }
  function setZone(found) {
    if (found === zone) return;
    zone = found;
    at("zone").value = String(zone.epsg);
    keep(null);
    fit();
    repaint();
  }
  function controls() {
    for (const map of data.maps) for (const id of ["layer", "other"]) at(id).append(el("option", { value: map.stem }, map.title));
    at("other").prepend(el("option", { value: "" }, "nothing"));
    at("other").value = "";
    for (const z of data.zones) at("zone").append(el("option", { value: z.epsg }, `EPSG:${z.epsg}`));
    at("zones").hidden = data.zones.length < 2;
    at("layer").addEventListener("change", (e) => setLayer(e.target.value));
    at("other").addEventListener("change", (e) => { chosen.right = e.target.value; repaint(); });
    at("zone").addEventListener("change", (e) => setZone(data.zones.find((z) => z.epsg === Number(e.target.value))));
    at("least").addEventListener("input", (e) => {
      chosen.least = Number(e.target.value);
      at("least-value").textContent = `${whole(chosen.least)} %`;
      if (maps.get(chosen.left).kind === "classes") legendNumbers(maps.get(chosen.left));
      repaint();
    });
    at("swipe").addEventListener("input", (e) => { chosen.swipe = Number(e.target.value) / 1000; later(); });
    at("in").addEventListener("click", () => zoom(1.5));
    at("out").addEventListener("click", () => zoom(1 / 1.5));
    at("fit").addEventListener("click", fit);
    at("areas-csv").addEventListener("click", areasCsv);
    window.addEventListener("resize", () => resize());
    window.addEventListener("beforeprint", print);
  }
  function pointer() {
    const held = new Map();
    let moved = 0;
    const point = (e) => {
      const box = canvas.getBoundingClientRect();
      return [e.clientX - box.left, e.clientY - box.top];
    };
    const spread = () => {
      const [a, b] = [...held.values()];
      return { apart: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1, x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2 };
    };
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      held.set(e.pointerId, point(e));
      if (held.size === 1) moved = 0;
    });
    canvas.addEventListener("pointermove", (e) => {
      const now = point(e);
      const before = held.get(e.pointerId);
      if (!before) { hover(place(...now)); return; }
      const old = held.size === 2 ? spread() : null;
      held.set(e.pointerId, now);
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (old) {
        const next = spread();
        zoom(next.apart / old.apart, next.x, next.y);
        move(next.x - old.x, next.y - old.y);
      } else if (moved > 4) {
        canvas.classList.add("moving");
        move(now[0] - before[0], now[1] - before[1]);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => {
      if (end === "pointerup" && held.size === 1 && moved <= 4) keep(place(...point(e)));
      held.delete(e.pointerId);
      canvas.classList.remove("moving");
    });
    canvas.addEventListener("pointerleave", () => hover(null));
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      zoom(Math.exp(-e.deltaY * (e.deltaMode === 1 ? 0.05 : 0.0015)), ...point(e));
    }, { passive: false });
    canvas.addEventListener("dblclick", (e) => zoom(2, ...point(e)));
  }
  function keyboard() {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    canvas.addEventListener("keydown", (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey) return;
      if (steps[e.key]) move(...steps[e.key]);
      else if (e.key === "+" || e.key === "=") zoom(1.5);
      else if (e.key === "-") zoom(1 / 1.5);
      else if (e.key === "0") fit();
      else if (e.key === "Enter") keep(place(view.wide / 2, view.high / 2));
      else if (e.key === "Escape") keep(null);
      else return;
      e.preventDefault();
      hover(place(view.wide / 2, view.high / 2));
    });
    for (const event of ["focus", "blur"]) canvas.addEventListener(event, later);
  }

  async function begin() {
    around();
    operators();
    controls();
    for (const holder of [...document.querySelectorAll("script[data-raster]")]) rasters.set(holder.id, await unpack(holder.id));
    legend();
    pictures.left = painted(chosen.left);
    resize();
    pointer();
    keyboard();
    document.documentElement.dataset.ready = "true"; // for tests
  }
  begin().catch((error) => {
    at("warning").textContent = `This browser cannot draw the maps (${error.message}). They lie beside this page as .tif files, which QGIS opens.`;
    at("warning").hidden = false;
  });
})();
