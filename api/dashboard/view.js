/** Builds elements; text always goes in as text, so that nothing from the cluster is ever read as HTML. */

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick" || name === "onchange") node[name] = value;
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return node;
}

/** `columns` are heads; `rows` are lists of strings or elements. */
export function table(caption, columns, rows) {
  if (rows.length === 0) {
    return element("div", { class: "scroll" }, element("p", { class: "empty" }, `${caption}: none`));
  }
  const head = element(
    "tr",
    {},
    columns.map((column) => element("th", { scope: "col" }, column)),
  );
  const body = rows.map((cells) =>
    element(
      "tr",
      {},
      cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : element("td", {}, cell))),
    ),
  );
  return element(
    "div",
    { class: "scroll" },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element("thead", {}, head),
      element("tbody", {}, body),
    ),
  );
}

export function wide(text) {
  return element("td", { class: "wrap" }, text);
}

export function tone(text, kind) {
  return element("span", { class: kind }, text);
}

/** A thin bar under a count. */
export function progressBar(value, max, kind) {
  return element("meter", {
    class: kind,
    value: String(value),
    min: "0",
    max: String(Math.max(max, 1)),
    "aria-hidden": "true",
  });
}

export function bytes(size) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let value = Math.max(0, size);
  for (; value >= 1000 && at < units.length - 1; at += 1) value /= 1000;
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export function button(text, label, onclick) {
  return element("button", { type: "button", "aria-label": label, onclick }, text);
}

export function age(time) {
  const seconds = Math.max(
    0,
    Math.round((Date.now() - (typeof time === "number" ? time : Date.parse(time))) / 1000),
  );
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** Asks for one value; resolves to it, or to undefined on cancel. `check` returns what is wrong with it, or "". */
export function ask({ title, label, value, action, check }) {
  const dialog = document.getElementById("ask");
  const input = document.getElementById("ask-input");
  const error = document.getElementById("ask-error");
  const field = document.getElementById("ask-label");
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-ok").textContent = action;
  field.hidden = label === undefined;
  field.firstElementChild.textContent = label ?? "";
  input.value = value ?? "";
  error.textContent = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onsubmit = (event) => {
      if (event.submitter?.value !== "ok") return;
      error.textContent = check === undefined ? "" : check(input.value);
      if (error.textContent !== "") event.preventDefault();
    };
    dialog.onclose = () => resolve(dialog.returnValue === "ok" ? input.value : undefined);
  });
}

let toastTimer = 0;
export function toast(text) {
  const node = document.getElementById("toast");
  node.textContent = text;
  node.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    node.hidden = true;
  }, 6000);
}
