/* What a page gains by a script: it renews its parts, tells times of this place, and marks rows. Without it all works. */
"use strict";

(() => {
  const page = document;
  const byId = (id) => page.getElementById(id);
  const busy = (part) =>
    part.contains(page.activeElement) && page.activeElement.matches("input, select, textarea, button:active");
  const selecting = (part) => {
    const marked = page.getSelection();
    return marked && !marked.isCollapsed && part.contains(marked.anchorNode);
  };

  /* --- times --- */

  const localTimes = (root) => {
    for (const shown of root.querySelectorAll("time[data-local]")) {
      const moment = new Date(shown.dateTime);
      if (!Number.isNaN(moment.getTime())) {
        shown.title = shown.textContent;
        shown.textContent = moment.toLocaleTimeString([], { hour12: false }) +
          "." + String(moment.getMilliseconds()).padStart(3, "0");
      }
    }
  };

  /* --- renewing --- */

  const seconds = Number(page.body.dataset.poll || 0);
  const button = byId("live");
  let paused = false;
  try { paused = sessionStorage.getItem("paused") === "1"; } catch { /* storage may be forbidden */ }

  const show = (dot, text) => {
    byId("live-dot").className = `dot ${dot}`;
    byId("live-text").textContent = text;
  };

  /* Rows that can be marked, and how many are: also of a part that was renewed meanwhile. */
  const boxes = (part) => [...part.querySelectorAll('input[type="checkbox"][name="id"]')];
  const count = () => {
    const every = byId("every");
    if (!every) return;
    const all = boxes(every.form);
    const marked = all.filter((box) => box.checked).length;
    byId("marked").textContent = marked ? `${marked} marked` : "Mark some";
    every.hidden = false;
    every.checked = marked > 0 && marked === all.length;
    every.indeterminate = marked > 0 && marked < all.length;
  };

  const scrolls = (part) => [...part.querySelectorAll(".scroll, .canvas, pre")].map((each) => [each.scrollLeft, each.scrollTop]);

  const take = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    localTimes(fresh);
    for (const part of page.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || busy(part) || selecting(part) || part.innerHTML === next.innerHTML) continue;
      const inside = part.contains(page.activeElement);
      const places = [...part.querySelectorAll("a, button, [tabindex]")];
      const focused = inside ? places.indexOf(page.activeElement) : -1;
      const kept = scrolls(part);
      const marked = new Set([...part.querySelectorAll("input:checked")].map((each) => each.value));
      part.replaceChildren(...page.importNode(next, true).childNodes);
      for (const box of boxes(part)) box.checked = marked.has(box.value);
      part.querySelectorAll(".scroll, .canvas, pre").forEach((each, at) => {
        if (kept[at]) [each.scrollLeft, each.scrollTop] = kept[at];
      });
      if (focused >= 0) part.querySelectorAll("a, button, [tabindex]")[focused]?.focus({ preventScroll: true });
    }
    count();
    page.title = fresh.title;
    return Boolean(fresh.body.dataset.poll);
  };

  const renew = async () => {
    if (paused || page.hidden) return true;
    try {
      const answer = await fetch(location.href, {
        headers: { "X-Amqptasks-Refresh": "1" }, cache: "no-store", redirect: "manual",
      });
      if (answer.type === "opaqueredirect") { location.reload(); return false; }
      if (!answer.ok) throw new Error(String(answer.status));
      const more = take(await answer.text());
      show(more ? "good" : "", more ? "Live" : "Ended");
      return more;
    } catch {
      show("bad", "No answer");
      return true;
    }
  };

  const run = async () => {
    while (await renew()) await new Promise((then) => setTimeout(then, seconds * 1000));
  };

  if (seconds && button) {
    const told = () => {
      button.setAttribute("aria-pressed", String(!paused));
      show(paused ? "" : "good", paused ? "Paused" : "Live");
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      try { sessionStorage.setItem("paused", paused ? "1" : "0"); } catch { /* as above */ }
      told();
      if (!paused) renew();
    });
    page.addEventListener("visibilitychange", () => { if (!page.hidden) renew(); });
    told();
    setTimeout(run, seconds * 1000);
  }
  localTimes(page);

  /* On a narrow screen the row of pages is longer than the screen. */
  const tabs = byId("tabs");
  const current = tabs?.querySelector("[aria-current]");
  if (current) tabs.scrollLeft = current.offsetLeft - (tabs.clientWidth - current.offsetWidth) / 2;

  /* --- forms --- */

  for (const select of page.querySelectorAll("#filters select, select#of-queue")) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }

  page.addEventListener("change", ({ target }) => {
    if (target.id === "every") for (const box of boxes(target.form)) box.checked = target.checked;
    if (target.type === "checkbox") count();
  });
  count();

  /* A form is sent once, however often it is clicked. */
  page.addEventListener("submit", (event) => {
    const sent = event.target;
    if (sent.method !== "post") return;
    if (sent.dataset.sent) { event.preventDefault(); return; }
    sent.dataset.sent = "1";
  });
  addEventListener("pageshow", () => page.querySelectorAll("form[data-sent]").forEach((each) => delete each.dataset.sent));
})();
