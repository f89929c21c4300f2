/* The copy buttons: a module whole, a code block, a command. Nothing else moves. */
(() => {
  "use strict";

  const select = (text) => {
    /* The last resort: show the text selected, so that the reader's own keys copy it. */
    const box = document.createElement("textarea");
    box.value = text;
    box.readOnly = true;
    box.className = "kit-fallback";
    box.setAttribute("aria-label", "The text, selected: copy it with your keyboard");
    return box;
  };

  const copy = async (text, near) => {
    try {
      await navigator.clipboard.writeText(text);
      return "Copied";
    } catch {
      near.parentElement.querySelector(".kit-fallback")?.remove();
      const box = select(text);
      near.insertAdjacentElement("afterend", box);
      box.select();
      if (document.execCommand && document.execCommand("copy")) {
        box.remove();
        near.focus();
        return "Copied";
      }
      return "Selected: press Ctrl+C or ⌘C";
    }
  };

  const say = (place, words) => {
    place.textContent = "";
    requestAnimationFrame(() => { place.textContent = words; });
  };

  const texts = new Map();
  const fetched = (url) => {
    if (!texts.has(url)) {
      const text = fetch(url).then((answer) => {
        if (!answer.ok) throw new Error(`${answer.status}`);
        return answer.text();
      });
      text.catch(() => texts.delete(url));
      texts.set(url, text);
    }
    return texts.get(url);
  };

  /* Fetched before the click, so that the click itself may write to the clipboard. */
  for (const event of ["pointerover", "focusin"]) {
    document.addEventListener(event, (e) => {
      const button = e.target.closest?.("[data-kit-copy]");
      if (button) fetched(button.dataset.kitCopy).catch(() => {});
    });
  }

  document.addEventListener("click", async (e) => {
    const button = e.target.closest?.("[data-kit-copy], .kit-copy-code");
    if (!button) return;
    if (button.matches(".kit-copy-code")) {
      const code = button.parentElement.querySelector("code").textContent;
      const said = await copy(code.replace(/\n$/, ""), button);
      button.dataset.said = said;
      say(live, said);
      setTimeout(() => delete button.dataset.said, 2000);
      return;
    }
    const said = button.parentElement.querySelector("[role=status]");
    try {
      say(said, await copy(await fetched(button.dataset.kitCopy), button));
    } catch {
      say(said, "It could not be read here; use the download.");
    }
  });

  /* Run a notebook here: its cells go one by one to Python in a worker. */
  const escaped = (text) => {
    const span = document.createElement("span");
    span.textContent = text;
    return span.innerHTML;
  };
  const shapes = {
    text: (data) => `<pre class="kit-out" tabindex="0">${escaped(data)}</pre>`,
    error: (data) => `<pre class="kit-out kit-err" tabindex="0">${escaped(data)}</pre>`,
    svg: (data, words) => `<div class="kit-plot" tabindex="0">${data}</div>` +
      (words.startsWith("<") ? "" : `<p class="kit-caption">${escaped(words)}</p>`),
    html: (data) => `<div class="kit-html" tabindex="0">${data}</div>`,
  };
  const plain = (box) => (box ? box.textContent.replace(/\s+/g, " ").trim() : "");

  const run = async (button) => {
    const said = button.parentElement.querySelector("[role=status]");
    const answer = await fetch(button.dataset.kitRun);
    const cells = (await answer.json()).cells;
    const numbers = cells.flatMap((cell, n) => (cell.cell_type === "code" ? [n] : []));
    const worker = new Worker(button.dataset.kitWorker, { type: "module" });
    const ask = (message) => new Promise((resolve, reject) => {
      worker.onmessage = (e) => resolve(e.data);
      worker.onerror = (e) => { e.preventDefault(); reject(new Error(e.message)); };
      worker.postMessage(message);
    });
    let other = 0;
    try {
      said.textContent = "Starting Python…";
      const ready = await ask({ start: true });
      if (ready.failed) throw new Error(ready.failed);
      for (const [step, n] of numbers.entries()) {
        said.textContent = `Cell ${step + 1} of ${numbers.length}…`;
        const source = [cells[n].source].flat().join("");
        const { outputs, failed } = await ask({ source, n });
        const box = document.querySelector(`.kit-outputs[data-kit-cell="${n}"]`);
        const before = plain(box);
        if (box) {
          box.innerHTML = outputs.map(([kind, ...data]) => shapes[kind](...data)).join("");
          box.hidden = outputs.length === 0;
          if (plain(box) !== before) other += 1;
        }
        const meant = (cells[n].metadata.tags || []).includes("raises-exception");
        if (failed && !meant) throw new Error(`cell ${step + 1} raised ${failed}`);
      }
      said.textContent = other
        ? `Ran ${numbers.length} cells; ${other} gave another output than the stored one.`
        : `Ran ${numbers.length} cells; every output is as stored.`;
    } catch (error) {
      said.textContent = `It stopped: ${error.message}`;
    } finally {
      worker.terminate();
      button.disabled = false;
    }
  };

  document.addEventListener("click", (e) => {
    const button = e.target.closest?.("[data-kit-run]");
    if (!button || button.disabled) return;
    button.disabled = true;
    run(button);
  });

  const live = document.createElement("div");
  live.className = "kit-live";
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  document.querySelector(".md-content")?.append(live);

  for (const code of document.querySelectorAll(
    ".md-content .highlight:not(.doc-signature) > pre, .kit-command",
  )) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "kit-copy-code";
    button.setAttribute("aria-label", "Copy this code");
    const frame = document.createElement("div");
    frame.className = "kit-code";
    code.replaceWith(frame);
    frame.append(code, button);
  }

  /* Text that scrolls sideways must be within reach of the keyboard. */
  const reach = () => {
    for (const box of document.querySelectorAll(
      ".highlight code, .md-typeset__scrollwrap, .kit-graph",
    )) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  addEventListener("load", reach);
})();
