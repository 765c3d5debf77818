// Light, dark, or as the system has it: the button goes round; the choice is kept where the browser lets us.
"use strict";
{
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const set = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = { auto: "◐ auto", light: "☀ light", dark: "☾ dark" }[name];
    button.setAttribute("aria-label", `colours: ${name}`);
  };
  let current = "auto";
  try { current = themes.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto"; } catch { /* a page from a file may have no storage */ }
  set(current);
  button.hidden = false;
  button.addEventListener("click", () => {
    current = themes[(themes.indexOf(current) + 1) % themes.length];
    set(current);
    try { localStorage.setItem("theme", current); } catch { /* as above */ }
  });

  // Lines of the radar, one box a model.
  for (const box of document.querySelectorAll("input[data-shows]")) {
    const show = () => {
      for (const line of document.querySelectorAll(`#figure-radar [data-model="${box.dataset.shows}"]`)) {
        line.style.display = box.checked ? "" : "none";
      }
    };
    box.addEventListener("change", show);
    show();
  }
}
