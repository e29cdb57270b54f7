/**
 * The dashboard: nodes, services, tasks, stacks and live logs of a cluster, with scale, update and rollback; what is on
 * this machine and its events (machine.js). On a machine outside of a cluster only the latter.
 */
import { followEvents, followLogs, getJson, isListenerReadOnly, postJson } from "./client.js";
import { dataView, loadData } from "./data.js";
import { EventLog, eventsView, loadMachine, machineView } from "./machine.js";
import { age, ask, button, element, progressBar, table, toast, tone, wide } from "./view.js";

const STACK_LABEL = "com.docker.stack.namespace";
const POLL_MS = 5000;
/** Events come in bursts; one refresh answers many. */
const SETTLE_MS = 250;
const LOG_LINE_COUNT_MAX = 2000;
const TASK_ROW_COUNT_MAX = 500;
const VIEWS = {
  services: "Services",
  stacks: "Stacks",
  tasks: "Tasks",
  nodes: "Nodes",
  data: "Secrets, configs, networks",
  machine: "This machine",
  events: "Events",
};
/** States that a task does not leave again. */
const ENDED = new Set(["complete", "failed", "rejected", "shutdown", "orphaned", "remove"]);

const main = document.getElementById("main");
const readOnlyBox = document.getElementById("read-only");
const searchBox = document.getElementById("search");
const events = new EventLog();
let state = {
  cluster: undefined,
  services: [],
  tasks: [],
  nodes: [],
  current: [],
  machine: undefined,
  data: undefined,
  error: "",
};
let taskFilter = "";
let areEndedShown = false;
let logAbort = new AbortController();

function currentView() {
  const name = location.hash.slice(1);
  return Object.hasOwn(VIEWS, name) ? name : "services";
}

function mayChange() {
  return !isListenerReadOnly && !readOnlyBox.checked;
}

/** Tasks made from their service's newest spec; asked for only while something is updated. */
async function currentTasks(services) {
  if (!services.some((service) => service.UpdateStatus?.State?.endsWith("started"))) return [];
  return await getJson(`/tasks?filters=${encodeURIComponent('{"_up-to-date":{"true":true}}')}`);
}

async function refresh() {
  try {
    if (currentView() === "machine") state = { ...state, machine: await loadMachine() };
    const [cluster, services, tasks, nodes] = await Promise.all([
      getJson("/shoal/v1/cluster"),
      getJson("/services?status=true"),
      getJson("/tasks"),
      getJson("/nodes"),
    ]);
    if (currentView() === "data") state = { ...state, data: await loadData() };
    state = { ...state, cluster, services, tasks, nodes, current: await currentTasks(services), error: "" };
  } catch (error) {
    state = { ...state, error: error.message };
  }
  render();
}

let refreshTimer = 0;
function refreshSoon() {
  clearTimeout(refreshTimer);
  refreshTimer = setTimeout(() => void refresh(), SETTLE_MS);
}

function modeText(service) {
  const mode = service.Spec.Mode;
  if (mode.Global !== undefined) return "global";
  if (mode.ReplicatedJob !== undefined) return "replicated job";
  if (mode.GlobalJob !== undefined) return "global job";
  return "replicated";
}

function replicas(service) {
  const { RunningTasks: running, DesiredTasks: desired, CompletedTasks: completed } = service.ServiceStatus;
  const isJob = service.JobStatus !== undefined;
  const text = isJob ? `${running}/${desired} (${completed} completed)` : `${running}/${desired}`;
  const kind = isJob || running === desired ? "good" : "warn";
  return element("td", {}, tone(text, kind), isJob ? undefined : progressBar(running, desired, kind));
}

function ports(service) {
  return (service.Endpoint?.Ports ?? [])
    .map(
      (port) =>
        `${port.PublishMode === "host" ? "host " : ""}${port.PublishedPort}→${port.TargetPort}/${port.Protocol}`,
    )
    .join(", ");
}

function updateText(service) {
  const status = service.UpdateStatus;
  if (status?.State === undefined) return undefined;
  const kind = status.State.includes("paused") ? "bad" : status.State.endsWith("completed") ? "dim" : "warn";
  const updated = state.current.filter(
    (task) => task.ServiceID === service.ID && task.Status.State === "running",
  ).length;
  const wanted = service.ServiceStatus.DesiredTasks;
  const count = status.State.endsWith("started") ? `, ${updated} of ${wanted} tasks` : "";
  const message = (status.Message ?? "") === "" ? "" : `: ${status.Message}`;
  return tone(`${status.State.replaceAll("_", " ")}${count}${message}`, kind);
}

/** Why the service has less running than wanted: what keeps its newest task of each slot from running, counted. */
function troubles(service) {
  const newest = new Map();
  for (const task of state.tasks) {
    if (task.ServiceID !== service.ID || (task.Status.Err ?? "") === "") continue;
    const slot = task.Slot ?? task.NodeID;
    const known = newest.get(slot);
    if (known === undefined || known.CreatedAt < task.CreatedAt) newest.set(slot, task);
  }
  const { RunningTasks: running, DesiredTasks: desired } = service.ServiceStatus;
  if (running >= desired) return [];
  const counts = new Map();
  for (const { Status: status } of newest.values()) {
    const text = `${status.State}: ${status.Err}`;
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return [...counts].map(([text, count]) =>
    element("div", { class: "bad" }, count > 1 ? `${text} (${count} tasks)` : text),
  );
}

/** Reads the service again, changes its spec and sends it back, so that a change of someone else is never lost. */
async function change(id, what, edit, query = "") {
  try {
    const service = await getJson(`/services/${id}`);
    const spec = edit(service.Spec);
    await postJson(`/services/${id}/update?version=${service.Version.Index}${query}`, spec);
    toast(`${service.Spec.Name}: ${what}`);
  } catch (error) {
    toast(`Could not change the service: ${error.message}`);
  }
  refreshSoon();
}

async function scale(service) {
  const value = await ask({
    title: `Scale ${service.Spec.Name}`,
    label: "Replicas",
    value: String(service.Spec.Mode.Replicated.Replicas),
    action: "Scale",
    check: (text) => (/^\d{1,5}$/.test(text.trim()) ? "" : "A whole number, 0 or more"),
  });
  if (value === undefined) return;
  const count = Number(value);
  await change(service.ID, `scaling to ${count}`, (spec) => ({
    ...spec,
    Mode: { Replicated: { Replicas: count } },
  }));
}

async function updateImage(service) {
  const image = await ask({
    title: `Update ${service.Spec.Name}`,
    label: "Image",
    value: service.Spec.TaskTemplate.ContainerSpec.Image.split("@")[0],
    action: "Update",
    check: (text) => (text.trim() === "" ? "An image name" : ""),
  });
  if (image === undefined) return;
  await change(service.ID, `updating to ${image.trim()}`, (spec) => {
    const template = spec.TaskTemplate;
    const container = { ...template.ContainerSpec, Image: image.trim() };
    return { ...spec, TaskTemplate: { ...template, ContainerSpec: container } };
  });
}

async function rollback(service) {
  const answer = await ask({
    title: `Roll ${service.Spec.Name} back to its previous spec?`,
    action: "Roll back",
  });
  if (answer !== undefined) await change(service.ID, "rolling back", (spec) => spec, "&rollback=previous");
}

function serviceActions(service) {
  const name = service.Spec.Name;
  const actions = [button("Logs", `Logs of ${name}`, () => void openLogs(name, `/services/${service.ID}`))];
  if (!mayChange()) return element("td", {}, actions);
  if (service.Spec.Mode.Replicated !== undefined)
    actions.push(button("Scale", `Scale ${name}`, () => void scale(service)));
  actions.push(button("Update", `Update ${name}`, () => void updateImage(service)));
  if (service.PreviousSpec !== undefined) {
    actions.push(button("Roll back", `Roll back ${name}`, () => void rollback(service)));
  }
  return element("td", {}, actions);
}

function byName(left, right) {
  return left.Spec.Name < right.Spec.Name ? -1 : 1;
}

function servicesView(services = state.services, caption = "Services") {
  const rows = [...services]
    .sort(byName)
    .map((service) => [
      element(
        "a",
        { href: "#tasks", class: "name", onclick: () => void (taskFilter = service.ID) },
        service.Spec.Name,
      ),
      modeText(service),
      replicas(service),
      wide(service.Spec.TaskTemplate.ContainerSpec.Image.split("@")[0]),
      ports(service),
      element("td", { class: "wrap" }, updateText(service), troubles(service)),
      serviceActions(service),
    ]);
  return table(caption, ["Name", "Mode", "Running", "Image", "Ports", "What is going on", "Actions"], rows);
}

function stacksView() {
  const stacks = new Map();
  for (const service of state.services) {
    const name = service.Spec.Labels?.[STACK_LABEL];
    if (name !== undefined) stacks.set(name, [...(stacks.get(name) ?? []), service]);
  }
  if (stacks.size === 0) return table("Stacks", [], []);
  return [...stacks]
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([name, services]) => servicesView(services, name));
}

function taskName(task, services) {
  const service = services.get(task.ServiceID);
  return `${service?.Spec.Name ?? task.ServiceID}.${task.Slot ?? task.NodeID ?? ""}`;
}

function taskTone(task) {
  if (task.Status.State === "running") return "good";
  if (["failed", "rejected", "orphaned"].includes(task.Status.State)) return "bad";
  return ["complete", "shutdown", "remove"].includes(task.Status.State) ? "dim" : "warn";
}

function taskFilterBox() {
  const options = [...state.services]
    .sort(byName)
    .map((service) =>
      element("option", { value: service.ID, selected: service.ID === taskFilter }, service.Spec.Name),
    );
  const onchange = (event) => {
    taskFilter = event.target.value;
    render();
  };
  const select = element(
    "select",
    { id: "task-filter", onchange },
    element("option", { value: "" }, "All"),
    options,
  );
  const ended = element("input", {
    type: "checkbox",
    id: "ended",
    checked: areEndedShown,
    onchange: (event) => {
      areEndedShown = event.target.checked;
      render();
    },
  });
  return element(
    "div",
    { class: "filter" },
    element("label", { for: "task-filter" }, "Service"),
    select,
    element("label", { class: "switch" }, ended, " Ended ones too"),
  );
}

/** Ended tasks are history; the newest failure of a slot is shown until its successor runs. */
function isTaskShown(task) {
  if (areEndedShown || !ENDED.has(task.Status.State)) return true;
  if (task.Status.State !== "failed" && task.Status.State !== "rejected") return false;
  const later = state.tasks.filter(
    (each) => each.ServiceID === task.ServiceID && each.Slot === task.Slot && each.CreatedAt > task.CreatedAt,
  );
  return later.every((each) => each.Status.State !== "running" && !ENDED.has(each.Status.State));
}

function tasksView() {
  const services = new Map(state.services.map((service) => [service.ID, service]));
  const nodes = new Map(state.nodes.map((node) => [node.ID, node.Description.Hostname]));
  const tasks = state.tasks
    .filter((task) => (taskFilter === "" || task.ServiceID === taskFilter) && isTaskShown(task))
    .sort((left, right) => (left.CreatedAt < right.CreatedAt ? 1 : -1));
  const rows = tasks.slice(0, TASK_ROW_COUNT_MAX).map((task) => [
    taskName(task, services),
    nodes.get(task.NodeID) ?? "",
    tone(`${task.Status.State}, ${age(task.Status.Timestamp)}`, taskTone(task)),
    task.DesiredState,
    wide(task.Status.Err ?? ""),
    element(
      "td",
      {},
      button(
        "Logs",
        `Logs of ${task.ID}`,
        () => void openLogs(taskName(task, services), `/tasks/${task.ID}`),
      ),
    ),
  ]);
  const caption = tasks.length > rows.length ? `Tasks (newest ${rows.length} of ${tasks.length})` : "Tasks";
  return [taskFilterBox(), table(caption, ["Name", "Node", "State", "Wanted", "Error", "Actions"], rows)];
}

/** Tasks of a drained node move to others; a paused one keeps what it has and gets nothing new. */
async function setAvailability(node, availability) {
  const name = node.Description.Hostname ?? node.ID;
  const question = {
    drain: "Move all tasks away from",
    pause: "Give no more tasks to",
    active: "Give tasks to",
  };
  const answer = await ask({ title: `${question[availability]} ${name}?`, action: availability });
  if (answer === undefined) return;
  try {
    const { Spec: spec, Version: version } = await getJson(`/nodes/${node.ID}`);
    await postJson(`/nodes/${node.ID}/update?version=${version.Index}`, {
      ...spec,
      Availability: availability,
    });
    toast(`${name}: ${availability}`);
  } catch (error) {
    toast(`Could not change the node: ${error.message}`);
  }
  refreshSoon();
}

function nodeActions(node) {
  if (!mayChange()) return "";
  const name = node.Description.Hostname ?? node.ID;
  const others = ["active", "pause", "drain"].filter((each) => each !== node.Spec.Availability);
  return element(
    "td",
    {},
    others.map((each) => button(each, `${each} ${name}`, () => void setAvailability(node, each))),
  );
}

function nodesView() {
  const running = (node) =>
    state.tasks.filter((task) => task.NodeID === node.ID && task.Status.State === "running").length;
  const rows = state.nodes.map((node) => {
    const manager = node.ManagerStatus;
    const role =
      manager === undefined ? "worker" : manager.Leader ? "leader" : `manager, ${manager.Reachability}`;
    const resources = node.Description.Resources;
    return [
      node.Description.Hostname ?? node.ID,
      tone(node.Status.State, node.Status.State === "ready" ? "good" : "bad"),
      node.Spec.Availability,
      role,
      String(running(node)),
      `${(resources.NanoCPUs ?? 0) / 1e9} CPUs, ${((resources.MemoryBytes ?? 0) / 2 ** 30).toFixed(1)} GiB`,
      node.Status.Addr ?? "",
      node.Description.Engine.EngineVersion ?? "",
      nodeActions(node),
    ];
  });
  return table(
    "Nodes",
    ["Name", "State", "Availability", "Role", "Running", "Resources", "Address", "Version", "Actions"],
    rows,
  );
}

async function openLogs(title, path) {
  logAbort.abort();
  logAbort = new AbortController();
  const { signal } = logAbort;
  const log = document.getElementById("log");
  log.replaceChildren();
  document.getElementById("log-title").textContent = `Logs of ${title}`;
  document.getElementById("log-panel").hidden = false;
  const show = ({ stream, text }) => {
    // Details come first, as "k=v,k=v "; the page shows the task's beginning in their place.
    const [, task = "", line = text] = /^\S*task\.id=(\w{8})\w* ([\s\S]*)$/.exec(text) ?? [];
    log.append(tone(`${task} `, "dim"), tone(line, stream === "stderr" ? "warn" : ""));
    while (log.childElementCount > LOG_LINE_COUNT_MAX) log.firstElementChild.remove();
    if (document.getElementById("log-stick").checked) log.scrollTop = log.scrollHeight;
  };
  try {
    await followLogs(path, show, signal);
  } catch (error) {
    if (!signal.aborted) show({ stream: "stderr", text: `${error.message}\n` });
  }
}

function closeLogs() {
  logAbort.abort();
  document.getElementById("log-panel").hidden = true;
}

function healthText() {
  if (state.error !== "") return tone(state.error, "bad");
  const { quorum, nodes, tasks } = state.cluster;
  if (!quorum.has) return tone(`No quorum: ${quorum.reachable} of ${quorum.members} managers answer`, "bad");
  const ready = nodes.filter((node) => node.state === "ready").length;
  const isShort = tasks.running < tasks.wanted;
  const text = `${ready}/${nodes.length} nodes ready, ${quorum.reachable}/${quorum.members} managers, ${tasks.running}/${tasks.wanted} tasks running`;
  return tone(text, state.cluster.healthy && !isShort ? "good" : "warn");
}

const RENDERERS = {
  services: () => servicesView(),
  stacks: stacksView,
  tasks: tasksView,
  nodes: nodesView,
  data: () => dataView(state.data, state.services),
  machine: () => machineView(state.machine),
  events: () => eventsView(events),
};

/** Hides the rows that lack the words of the search box. */
function applySearch() {
  const words = searchBox.value
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== "");
  for (const row of main.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

function render() {
  const view = currentView();
  document.title = `${VIEWS[view]} · Shoal`;
  readOnlyBox.disabled = isListenerReadOnly;
  if (isListenerReadOnly) readOnlyBox.checked = true;
  const tabs = Object.entries(VIEWS).map(([name, text], index) =>
    element(
      "li",
      {},
      element(
        "a",
        { href: `#${name}`, title: `Key ${index + 1}`, "aria-current": name === view ? "page" : undefined },
        text,
      ),
    ),
  );
  document.getElementById("tabs").replaceChildren(...tabs);
  document.getElementById("health").replaceChildren(healthText());
  // A view that is being used is not pulled away under the fingers.
  const focused = document.activeElement;
  const key =
    focused instanceof HTMLElement && main.contains(focused) ? (focused.ariaLabel ?? focused.id) : "";
  if (focused instanceof HTMLSelectElement && main.contains(focused)) return;
  main.replaceChildren(...[RENDERERS[view]()].flat());
  applySearch();
  if (key !== "") [...main.querySelectorAll("button")].find((each) => each.ariaLabel === key)?.focus();
}

async function watch() {
  for (;;) {
    try {
      await followEvents((event) => {
        events.add(event);
        refreshSoon();
      }, new AbortController().signal);
    } catch {
      state = { ...state, error: "Connection lost; trying again" };
      render();
    }
    await new Promise((resolve) => void setTimeout(resolve, POLL_MS));
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

document.getElementById("theme").onclick = () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme.includes("dark");
  setTheme(isDark ? "light" : "dark");
};
document.getElementById("log-close").onclick = closeLogs;
readOnlyBox.onchange = render;
searchBox.oninput = applySearch;
addEventListener("hashchange", () => {
  render();
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
  if (["machine", "data"].includes(currentView())) void refresh();
});

/** 1 to 7: the views; "/": search; Escape: out of the search, or closes the logs. */
function onKey(event) {
  if (document.getElementById("ask").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (document.activeElement === searchBox) searchBox.blur();
    else closeLogs();
    return;
  }
  if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
  const view = Object.keys(VIEWS)[Number(event.key) - 1];
  if (view !== undefined) location.hash = view;
  if (event.key !== "/") return;
  event.preventDefault();
  searchBox.focus();
}
addEventListener("keydown", onKey);
const savedTheme = localStorage.getItem("theme");
if (savedTheme !== null) setTheme(savedTheme);
setInterval(() => {
  if (!document.hidden) void refresh();
}, POLL_MS);
void refresh();
void watch();
