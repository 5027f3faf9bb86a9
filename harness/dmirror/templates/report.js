// SPDX-License-Identifier: GPL-2.0
// The box that picks tests by name and outcome; without it everything is there, only folded.
"use strict";
(() => {
  const form = document.getElementById("filter");
  const name = document.getElementById("name");
  const outcome = document.getElementById("outcome");
  const found = document.getElementById("found");
  const rows = [...document.querySelectorAll("table.tests tr")].filter((row) => row.cells[0].tagName === "TD");
  const files = [...document.querySelectorAll("details.file")];
  const failures = [...document.querySelectorAll(".failure")];
  const problems = [...document.querySelectorAll("article.problem")];
  const timelines = [...document.querySelectorAll("details.timeline")];
  const ofFiles = [...document.querySelectorAll("details.timelines")];
  for (const failure of failures)
    failure.words = heading(failure.matches("details") ? failure.querySelector("summary") : failure).toLowerCase();
  for (const file of ofFiles)
    for (const timeline of file.querySelectorAll("details.timeline"))
      timeline.words = (heading(file.querySelector("summary")) + "::" + heading(timeline.querySelector("summary"))).toLowerCase();
  for (const row of rows)
    row.words = (heading(row.closest("details").querySelector("summary")) + "::" + row.cells[0].textContent).toLowerCase();

  // The name that stands there, without the sign before it and the figures behind it.
  function heading(summary) {
    return [...summary.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data.trim()).join("");
  }

  function apply() {
    const word = name.value.trim().toLowerCase();
    const wanted = outcome.value;
    const any = !word && !wanted;
    let count = 0;
    for (const row of rows) {
      row.hidden = !(row.words.includes(word) && (!wanted || row.querySelector("td." + wanted[0])));
      count += !row.hidden;
    }
    for (const file of files) {
      const left = file.querySelector("tbody tr:not([hidden])") !== null;
      file.hidden = !left;
      if (!any && left && count <= 200) file.open = true;
      if (any) file.open = false;
    }
    for (const failure of failures)
      failure.hidden = !failure.words.includes(word) || (wanted !== "" && wanted !== "failed");
    for (const problem of problems) problem.hidden = problem.querySelector(".failure:not([hidden])") === null;
    for (const timeline of timelines) timeline.hidden = !timeline.words.includes(word);
    for (const file of ofFiles) file.hidden = file.querySelector("details.timeline:not([hidden])") === null;
    found.textContent = any ? rows.length + " tests" : count + " of " + rows.length + " tests";
  }

  function show() {
    const target = document.getElementById(location.hash.slice(1));
    if (target === null) return;
    const fold = target.matches("article") ? target.querySelector("details") : target.closest("details");
    if (fold !== null) fold.open = true;
    target.scrollIntoView();
  }

  // Of a long text of pytest's, what it is about stands near the end.
  function marked(fold) {
    for (const text of fold.querySelectorAll("pre")) {
      const mark = text.querySelector("mark");
      if (mark !== null) text.scrollTop = mark.offsetTop - 120;
    }
  }

  form.hidden = false;
  for (const failure of failures) failure.addEventListener("toggle", () => marked(failure));
  form.addEventListener("submit", (event) => event.preventDefault());
  name.addEventListener("input", apply);
  outcome.addEventListener("change", apply);
  window.addEventListener("hashchange", show);
  apply();
  show();
})();
