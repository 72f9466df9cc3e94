(() => {
  const island = document.getElementById("data"), data = JSON.parse(island.textContent);
  const one = (selector, within = document) => within.querySelector(selector), MINUS = "\u2212";
  const END = "\u27e8end\u27e9", AFTER = "\u27e8after\u27e9";
  const labels = data.arms.map((arm) => arm.label), kinds = data.quantities;
  const state = { episode: Number(island.dataset.start), arm: labels[0], quantity: data.rows[0] };
  let texts = {}; // which text -> the rows of token elements that show it

  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const sign = (x, text, signed) => (/^[0.]+$/.test(text) ? "" : x < 0 ? MINUS : signed ? "+" : "") + text;
  const fixed = (size, digits) => { // of a number halfway between two, the even one, as in the figures
    const halves = size * 2 * 10 ** digits, halfway = Number.isInteger(size * 2 ** (digits + 1)) && halves % 2 === 1;
    return (halfway && halves % 4 === 1 ? (halves - 1) / 2 / 10 ** digits : size).toFixed(digits);
  };
  const number = (x, signed = false) => {
    if (x === null || x === undefined) return "\u2013";
    const size = Math.abs(x), shown = (n) => Number(fixed(size, n));
    if ((size >= 1e-12 && size < 1e-4) || size >= 1e9)
      return sign(x, size.toExponential(1).replace(/e(.)(\d)$/, "e$10$2").replace("-", MINUS), signed);
    const digits = shown(4) > 1e-12 && shown(4) < .001 ? 4 : shown(2) <= 1 ? 3 : shown(2) < 100 ? 2 : 0;
    return sign(x, fixed(size, digits).replace(/\B(?=(\d{3})+$)/g, digits ? "" : ","), signed);
  };
  const strength = (kind, x) => {
    const [low, high] = kind.scale, within = (a, b, c) => Math.min(b, Math.max(a, c));
    if (kind.ramp === "signed") return Math.sign(x) * Math.sqrt(within(0, 1, Math.abs(x) / high));
    const share = within(0, 1, (x - low) / (high - low));
    return kind.ramp === "falling" ? Math.sqrt(1 - share) : share;
  };
  const written = (token) => token.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5") || "\u2205";
  const unspaced = (token) => token.replace(/^ (?=.)/s, "");
  const current = () => data.episodes.find((each) => each.episode === state.episode);

  // One line of tokens on the colours of one quantity. Spaces before a token stand between the colours.
  const token = (said, key, place) => {
    const kind = kinds[key], value = said.numbers[key]?.[place], past = place >= said.tokens.length;
    const raw = past ? AFTER : said.tokens[place], special = past || raw === data.eos;
    const node = make("span", { class: special ? "t special" : "t", tabindex: place ? -1 : 0, role: "img" });
    node.textContent = past ? AFTER : special ? END : written(unspaced(raw));
    node.setAttribute("aria-label", `${written(raw)}, ${kind.words} ${number(value)}`);
    const space = raw.startsWith(" ") || special ? " " : "";
    if (value === null || value === undefined) {
      node.classList.add("none");
      node.hidden = past;
      return [space, node];
    }
    const share = strength(kind, value), name = kind.ramp !== "signed" ? "size" : share > 0 ? "up" : "down";
    node.classList.add(name);
    node.style.setProperty("--share", Math.abs(share));
    if (Math.abs(share) > .1) node.classList.add("sign");
    if (value < kind.scale[0] || value > kind.scale[1]) node.classList.add("over");
    if (key === "advantage" && said.flipped.includes(place)) node.classList.add("turned");
    return [space, node];
  };
  const line = (said, key, text, who) => {
    const box = make("div", { class: "tokens", role: "group", "aria-label": `${who}: ${kinds[key].words}` });
    const places = Math.max(...Object.values(said.numbers).map((values) => values.length));
    const row = [];
    for (let place = 0; place < places; place++) {
      const [space, node] = token(said, key, place);
      node.at = { said, text, who, place, row };
      row.push(node);
      box.append(space, node);
      if ((said.tokens[place] ?? "").includes("\n")) box.append(make("br"));
    }
    (texts[text] ??= []).push(row);
    return box;
  };
  const legend = (key) => {
    const { ramp, scale: [low, high] } = kinds[key], quarter = (high - low) / 4;
    const at = { signed: [low, low / 4, 0, high / 4, high], rising: [low, low + 2 * quarter, high],
      falling: [low, high - quarter, high] }[ramp];
    const told = at.map((x) => sign(x, String(Number(Math.abs(x).toPrecision(2))), ramp === "signed"));
    return make("div", { class: "legend" }, make("i", { class: ramp }), ...told.map((text) => make("span", {}, text)));
  };
  const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  const titled = (key) => kinds[key].words + (kinds[key].unit && ` [${kinds[key].unit}]`);
  const facts = (said, told = Object.entries(said.facts)) => [
    ...told.map(([name, value]) => `${name} ${number(value)}`),
    counted(said.tokens.length, "token"), ...(said.ended ? [] : ["did not end"]),
  ].join(" \u00b7 ");
  const row = (head, body) => make("div", { class: "row" }, make("div", { class: "head" }, ...head), body);
  const measured = (title, key, said, text, who) =>
    row([make("b", {}, title), legend(key)], line(said, key, text, who));
  const dot = (arm) => {
    const node = make("span", { class: "dot" });
    node.style.background = data.arms.find((each) => each.label === arm).colour;
    return node;
  };

  // Lines over the tokens' places; the first two with the difference between them filled in.
  const SVG = "http://www.w3.org/2000/svg";
  const draw = (name, attributes, text = "") => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const ticks = (low, high) => {
    const rough = (high - low) / 4, base = 10 ** Math.floor(Math.log10(rough));
    const step = base * [1, 2, 5, 10].find((each) => each * base >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const values = Array.from({ length: 9 }, (_, i) => (Math.ceil(low / step) + i) * step).filter((y) => y <= high);
    return values.map((y) => [y, y.toFixed(digits).replace(/^-(?=.*[1-9])/, MINUS).replace(/^-/, "")]);
  };
  const chart = (title, keys, said, text) => {
    const known = keys.flatMap((key) => said.numbers[key]).filter((y) => y !== null);
    if (known.length < 2) return "";
    const places = Math.max(...keys.map((key) => said.numbers[key].length)), room = [34, 8, 84, 24];
    const wide = Math.min(480, one("#response").clientWidth - 28); // a unit is a pixel at least, so letters are not small
    let [low, high] = [Math.min(...known), Math.max(...known)];
    if (high - low < 1e-9) [low, high] = [low - 1, high + 1];
    const x = (i) => room[0] + (wide - room[0] - room[2]) * (places > 1 ? i / (places - 1) : .5);
    const y = (v) => 170 - room[3] - (170 - room[1] - room[3]) * (v - low) / (high - low);
    const svg = draw("svg", { viewBox: `0 0 ${wide} 170`, role: "img", "aria-label": `${title} over the tokens` });
    for (const [v, written] of ticks(low, high)) {
      svg.append(draw("line", { x1: room[0], x2: wide - room[2], y1: y(v), y2: y(v), stroke: "var(--line)" }));
      svg.append(draw("text", { x: room[0] - 5, y: y(v) + 4, "text-anchor": "end" }, written));
    }
    for (let i = 0; i < places; i += places > 30 ? 10 : 5) {
      svg.append(draw("text", { x: x(i), y: 166, "text-anchor": "middle" }, i + 1));
    }
    svg.append(draw("text", { x: wide - room[2] + 14, y: 166 }, "token"));
    const cursor = draw("line", { y1: room[1], y2: 170 - room[3], stroke: "var(--accent)", visibility: "hidden" });
    if (keys.length > 1) {
      const [a, b] = keys.map((key) => said.numbers[key]);
      for (let i = 0; i < places; i++) {
        if (a[i] === null || b[i] === null) continue;
        const stroke = b[i] > a[i] ? "var(--up)" : "var(--down)";
        svg.append(draw("line", { x1: x(i), x2: x(i), y1: y(a[i]), y2: y(b[i]), stroke, "stroke-width": 5,
          "stroke-opacity": .6 }));
      }
    }
    const ends = keys.map((key) => said.numbers[key].findLastIndex((v) => v !== null));
    const names = keys.map((key, k) => y(said.numbers[key][ends[k]]) + 4);
    if (names.length > 1 && Math.abs(names[0] - names[1]) < 13) {
      const middle = (names[0] + names[1]) / 2, above = names[0] < names[1] ? 0 : 1;
      names[above] = middle - 6.5;
      names[1 - above] = middle + 6.5;
    }
    keys.forEach((key, k) => {
      const values = said.numbers[key], known = (v) => v !== null && v !== undefined;
      const path = values.map((v, i) => (known(v) ? `${known(values[i - 1]) ? "L" : "M"}${x(i)} ${y(v)}` : ""));
      svg.append(draw("path", { d: path.join(""), fill: "none", stroke: "currentColor", "stroke-width": 1.6,
        "stroke-dasharray": k ? "5 3" : "none", "stroke-linejoin": "round" }));
      svg.append(draw("text", { x: x(ends[k]) + 7, y: names[k], class: "named" }, kinds[key].words));
    });
    svg.append(cursor);
    const at = (event) => {
      const box = svg.getBoundingClientRect(), px = (event.clientX - box.left) / box.width * wide;
      const i = Math.round((px - room[0]) / (wide - room[0] - room[2]) * (places - 1));
      const node = texts[text][0][Math.min(places - 1, Math.max(0, i))];
      if (node) show(node);
    };
    svg.addEventListener("pointermove", at);
    svg.addEventListener("pointerdown", at);
    svg.follow = (other, i) => {
      cursor.setAttribute("visibility", other === text && i < places ? "visible" : "hidden");
      cursor.setAttribute("x1", x(i));
      cursor.setAttribute("x2", x(i));
    };
    return make("figure", {}, make("figcaption", {}, title), svg);
  };

  // The numbers of the token that is pointed at.
  const show = (node) => {
    const { said, text, who, place } = node.at;
    for (const old of document.querySelectorAll(".t.on")) old.classList.remove("on");
    for (const same of texts[text]) same[place]?.classList.add("on");
    for (const svg of document.querySelectorAll(".charts svg")) svg.follow(text, place);
    const raw = said.tokens[place], list = make("dl");
    for (const [key, kind] of Object.entries(kinds)) {
      if (!(key in said.numbers)) continue;
      const value = said.numbers[key][place];
      list.append(make("div", {}, make("dt", {}, kind.words), make("dd", {}, number(value, kind.ramp === "signed"))));
    }
    const name = raw === undefined ? "after the end," : make("code", {}, written(unspaced(raw)));
    one("#panel").hidden = false;
    one("#panel").replaceChildren(
      make("div", {}, name, ` token ${place + 1} of ${said.tokens.length} \u00b7 ${who}`), list);
  };

  // The sections
  const inArms = (episode) => {
    one("#arms").hidden = labels.length < 2;
    if (labels.length < 2) return;
    const rows = labels.map((arm, place) => {
      const record = episode.arms[arm], name = make("button", { type: "button", class: "arm-name" }, dot(arm), arm);
      name.addEventListener("click", () => {
        choose({ arm });
        document.querySelectorAll(".arm-name")[place].focus({ preventScroll: true });
      });
      if (!record) return row([name], make("p", { class: "soft" }, "This episode was not kept of this arm."));
      const other = record.post === episode.arms[shown(episode)].post ? "" : `another post: ${record.post}`;
      const told = make("span", { class: "soft" }, facts(record.policy), other && make("br"), other);
      return row([name, told], line(record.policy, state.quantity, `policy ${arm}`, arm));
    });
    const meaning = make("div", { class: "soft" }, kinds[state.quantity].meaning);
    one("#arms .rows").replaceChildren(row([legend(state.quantity)], meaning), ...rows);
  };
  const inResponse = (arm, { policy: said }) => {
    const section = one("#response"), text = `policy ${arm}`;
    one("h2", section).textContent = `All numbers of the response${labels.length > 1 ? ` of ${arm}` : ""}`;
    const ratios = said.numbers.log_ratio.filter((x) => x !== null), likelier = ratios.filter((x) => x > 0).length;
    one("p", section).textContent = `${facts(said)}.`
      + (ratios.length ? ` The update made ${likelier} of ${counted(ratios.length, "token")} more likely.` : "")
      + (said.flipped.length ? ` Whitening changed the sign of ${counted(said.flipped.length, "advantage")} (\u21c5).` : "");
    one(".rows", section).replaceChildren(...data.rows.map((key) => measured(titled(key), key, said, text, arm)));
    one(".charts", section).replaceChildren(
      chart("The critic's values and their targets: blue where the return is above the value, orange where it is below", ["value", "returns"], said, text),
      chart("The reward model's output at each token", ["score_so_far"], said, text));
  };
  const moved = (said) => {
    const order = said.tokens.map((word, i) => [word, said.numbers.kl[i]]).filter(([, x]) => x !== null);
    order.sort((a, b) => b[1] - a[1]);
    const quoted = (word) => `\u201c${word === data.eos ? END : written(word.trim() || word)}\u201d`;
    const named = (some) => some.map(([word, x]) => `${quoted(word)} ${number(x, true)}`).join(", ");
    const up = order.filter(([, x]) => x > 0).slice(0, 3), down = order.filter(([, x]) => x < 0).slice(-3).reverse();
    return (up.length ? ` More likely under PPO's policy: ${named(up)}.` : "")
      + (down.length ? ` Less likely: ${named(down)}.` : "");
  };
  const inAligned = (arm, record) => {
    const section = one("#aligned"), parts = [], { against } = data.arms.find((each) => each.label === arm);
    one("h2", section).textContent = `The ${against} policy and PPO's on the same text`;
    const whose = { policy: `Response of PPO's policy${labels.length > 1 ? ` (${arm})` : ""}`,
      sft: `Response of the ${against} policy, with the same random numbers` };
    const heads = { ref_logprob: `log p(${against}) [nats]`, logprob: "log p(PPO) [nats]",
      kl: `PPO \u2212 ${against} [nats]` };
    for (const [who, title] of Object.entries(whose).filter(([who]) => who in record)) {
      const said = record[who], told = Object.entries(said.facts).filter(([name]) => who !== "sft" || name !== "KL");
      parts.push(make("h3", {}, title), make("p", { class: "soft" }, `${facts(said, told)}.${moved(said)}`));
      parts.push(make("div", { class: "rows" }, ...Object.entries(heads).map(([key, head]) =>
        measured(head, key, said, `${who} ${arm}`, who === "sft" ? `${against} policy` : arm))));
    }
    one("p", section).textContent = "Which words the training made likelier: each text under both policies, and the "
      + "difference between the two. PPO's policy is the one before this episode's update"
      + (current().update === 1 ? ", which in the first update is the SFT policy itself." : ".");
    one("div", section).replaceChildren(...parts);
  };
  const shown = (episode) => (state.arm in episode.arms ? state.arm : Object.keys(episode.arms)[0]);
  const render = () => {
    const episode = current(), arm = shown(episode), record = episode.arms[arm];
    const [query, reference] = data.posts[record.post];
    texts = {};
    one("#episode").value = state.episode;
    one("#arm").value = arm;
    one("#post summary").textContent =
      `episode ${episode.episode} \u00b7 update ${episode.update} of ${episode.updates} \u00b7 post ${record.post}`;
    one("#post p").textContent = query.replace(/\n{2,}/g, "\n");
    one("#reference").textContent = reference;
    const { run } = data.arms.find((each) => each.label === arm);
    one("#command").textContent = `make inspect RUN=${run} EPISODE=${episode.episode}`;
    inArms(episode);
    inResponse(arm, record);
    inAligned(arm, record);
  };
  const address = ({ arm, episode }) => `${encodeURIComponent(arm)}-${episode}`;
  const choose = (change) => {
    Object.assign(state, change);
    render();
    location.replace(`#${address(state)}`);
  };
  const follow = () => {
    const asked = labels.flatMap((arm) => data.episodes.map(({ episode }) => ({ arm, episode })));
    const found = asked.find((each) => address(each) === location.hash.slice(1));
    if (found && address(found) !== address(state)) {
      Object.assign(state, found);
      render();
    }
  };

  const groups = Map.groupBy(data.episodes, (each) => `update ${each.update} of ${each.updates}`);
  for (const [name, episodes] of groups) {
    const options = episodes.map((each) => {
      const [query] = data.posts[Object.values(each.arms)[0].post];
      const title = /^TITLE: *(.*)$/m.exec(query)?.[1] || query.slice(0, 40);
      return make("option", { value: each.episode }, `${each.episode} \u00b7 ${title}`);
    });
    one("#episode").append(make("optgroup", { label: name }, ...options));
  }
  one("#arm").append(...labels.map((arm) => make("option", { value: arm }, arm)));
  one("#arm").parentElement.hidden = labels.length < 2;
  one("#quantity").append(...data.rows.map((key) => {
    const radio = make("input", { type: "radio", name: "quantity", value: key });
    radio.checked = key === state.quantity;
    return make("label", {}, radio, make("span", {}, kinds[key].words));
  }));
  for (const [key, { meaning }] of Object.entries(kinds)) {
    one(".terms").append(make("dt", {}, titled(key)), make("dd", {}, meaning));
  }
  const step = (by) => {
    const place = data.episodes.indexOf(current()) + by;
    if (data.episodes[place]) choose({ episode: data.episodes[place].episode });
  };
  one("#back").addEventListener("click", () => step(-1));
  one("#next").addEventListener("click", () => step(1));
  one("#episode").addEventListener("change", (event) => choose({ episode: Number(event.target.value) }));
  one("#arm").addEventListener("change", (event) => choose({ arm: event.target.value }));
  one("#quantity").addEventListener("change", (event) => choose({ quantity: event.target.value }));
  for (const kind of ["pointerover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => event.target.at && show(event.target));
  }
  document.addEventListener("keydown", (event) => {
    const at = event.target.at, rows = Object.values(texts).flat();
    if (!at) return;
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const next = move && rows[rows.indexOf(at.row) + move[0]];
    if (!next) return;
    event.preventDefault();
    (next[Math.min(next.length - 1, at.place + move[1])] ?? event.target).focus();
  });
  addEventListener("hashchange", follow);
  render();
  follow();
})();
