// Frames that scroll can be scrolled by keys; those that do not are no stop on the way of Tab.
"use strict";
for (const frame of document.querySelectorAll(".scroll, details pre")) {
  new ResizeObserver(() => {
    if (frame.scrollWidth > frame.clientWidth) {
      const titles = [...document.querySelectorAll("h2, h3")].filter((one) => one.compareDocumentPosition(frame) & Node.DOCUMENT_POSITION_FOLLOWING);
      frame.tabIndex = 0;
      frame.setAttribute("role", "region");
      frame.setAttribute("aria-label", titles.at(-1)?.textContent ?? document.title);
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) frame.removeAttribute(name);
    }
  }).observe(frame);
}
