// The gallery: questions with the answers of any two models, filtered; a large view with those of all of them.
// Its data are in #cases-data, as cases.py describes them. Texts go into the page as text, never as HTML.
"use strict";
{
  const data = JSON.parse(document.getElementById("cases-data").textContent);
  const PAGE = 24;
  const FLAGS = ["", "refused", "hallucinated"];
  const at = (id) => document.getElementById(id);
  const from = at("from"), to = at("to"), suite = at("suite"), words = at("words"), unkept = at("unkept");
  let kind = "all", shown = [], drawn = 0, open = -1;

  const right = (answer) => 2 * answer.filter((one) => one[1]).length >= answer.length;
  const flagged = (answer, flag) => answer.some((one) => FLAGS[one[3]] === flag);
  const KINDS = {
    all: () => true,
    fixed: (a, b) => !right(a) && right(b),
    broken: (a, b) => right(a) && !right(b),
    hallucinated: (a, b) => flagged(b, "hallucinated"),
    refused: (a, b) => flagged(b, "refused"),
    "both right": (a, b) => right(a) && right(b),
    "both wrong": (a, b) => !right(a) && !right(b),
  };

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function pictures(one) {
    const box = element("div", "pictures");
    for (const sha of one.pictures) {
      if (!data.pictures[sha]) { box.append(element("div", "none", "this picture is not in the page")); continue; }
      const image = element("img");
      image.src = data.pictures[sha];
      image.alt = "picture of the question";
      image.loading = "lazy";
      box.append(image);
    }
    if (!one.pictures.length) box.append(element("div", "none", one.kept ? "no picture was given" : "its picture was not kept"));
    return box;
  }

  function answer(title, given) {
    const box = element("div");
    for (const [text, ok, tokens, flag] of given) {
      const part = element("div", `answer ${ok ? "right" : "wrong"}`);
      part.append(element("small", "", `${title} ${ok ? "✓" : "✗"} ${tokens} tokens${flag ? ", " + FLAGS[flag] : ""}`));
      part.append(element("pre", "", data.texts[text] || "(nothing)"));
      box.append(part);
    }
    box.style.display = "grid";
    box.style.gap = ".3rem";
    return box;
  }

  function asked(one) {
    const parts = [element("span", "suite", data.suites[one.suite] || one.suite)];
    if (data.texts[one.earlier]) parts.push(element("pre", "soft", data.texts[one.earlier]));
    parts.push(element("q", "", data.texts[one.question]));
    const wanted = element("div");
    wanted.append(element("small", "soft", "reference: " + data.texts[one.reference]));
    parts.push(wanted);
    return parts;
  }

  function card(place) {
    const one = shown[place];
    const box = element("button", "card");
    box.type = "button";
    box.append(pictures(one), ...asked(one));
    for (const model of [from, to]) {
      const given = one.answers[model.value];
      box.append(answer(data.models[model.value].title, given.slice(0, 2)));
      if (given.length > 2) box.append(element("small", "soft", `and ${given.length - 2} more`));
    }
    box.addEventListener("click", () => show(place));
    return box;
  }

  function more() {
    const end = Math.min(drawn + PAGE, shown.length);
    const cards = [];
    for (; drawn < end; drawn++) cards.push(card(drawn));
    at("cards").append(...cards);
    at("more").hidden = drawn >= shown.length;
    at("more").textContent = `show more (${shown.length - drawn} left)`;
  }

  function filter() {
    const sought = words.value.trim().toLowerCase();
    const within = data.cases.filter((one) =>
      (unkept.checked || one.kept) && (!suite.value || one.suite === suite.value || one.language === suite.value)
      && (!sought || [one.question, one.reference, ...one.answers.flat().map((each) => each[0])].some(
        (text) => data.texts[text].toLowerCase().includes(sought))));
    const pair = (one) => [one.answers[from.value], one.answers[to.value]];
    for (const button of at("kinds").children) {
      button.setAttribute("aria-pressed", String(button.value === kind));
      button.querySelector("span").textContent = within.filter((one) => KINDS[button.value](...pair(one))).length;
    }
    shown = within.filter((one) => KINDS[kind](...pair(one)));
    drawn = 0;
    at("cards").replaceChildren();
    at("count").textContent = shown.length === 1 ? "1 question" : `${shown.length} questions`;
    more();
  }

  function show(place) {
    if (place < 0 || place >= shown.length) return;
    open = place;
    const one = shown[place];
    at("where").textContent = `${place + 1} of ${shown.length}`;
    at("large").replaceChildren(pictures(one), ...asked(one), ...data.models.map((model, number) => answer(model.title, one.answers[number])));
    if (!at("view").open) at("view").showModal();
    at("view").scrollTop = 0;
  }

  data.models.forEach((model, number) => {
    from.add(new Option(model.title, number));
    to.add(new Option(model.title, number));
  });
  from.value = 0;
  to.value = data.models.length - 1;
  for (const [name, title] of Object.entries(data.suites)) suite.add(new Option(title, name));
  if (data.cases.some((one) => one.language === "zh")) suite.add(new Option("all in Chinese", "zh"));
  for (const name of Object.keys(KINDS)) {
    const button = element("button", "", name);
    button.type = "button";
    button.value = name;
    button.append(element("span"));
    button.addEventListener("click", () => { kind = name; filter(); });
    at("kinds").append(button);
  }
  unkept.checked = !data.cases.some((one) => one.kept);
  for (const control of [from, to, suite, unkept]) control.addEventListener("change", filter);
  words.addEventListener("input", filter);
  at("more").addEventListener("click", () => {
    const first = drawn;
    more();
    at("cards").children[first]?.focus();
  });
  at("before").addEventListener("click", () => show(open - 1));
  at("next").addEventListener("click", () => show(open + 1));
  at("close").addEventListener("click", () => at("view").close());
  at("view").addEventListener("close", () => at("cards").children[open]?.focus());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (at("view").open) {
      if (event.key === "ArrowLeft") show(open - 1);
      if (event.key === "ArrowRight") show(open + 1);
      return;
    }
    if (event.key === "/" && !typing) { event.preventDefault(); words.focus(); }
    const place = [...at("cards").children].indexOf(document.activeElement);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (place >= 0 && step) { event.preventDefault(); at("cards").children[place + step]?.focus(); }
  });
  filter();
}
