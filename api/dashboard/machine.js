/** What is on the machine that serves the page (containers, images, volumes, networks), and its live events. */
import { getJson } from "./client.js";
import { age, bytes, element, table, tone, wide } from "./view.js";

const EVENT_COUNT_MAX = 300;

export async function loadMachine() {
  const [info, containers, images, volumes, networks] = await Promise.all([
    getJson("/info"),
    getJson("/containers/json?all=1"),
    getJson("/images/json"),
    getJson("/volumes"),
    getJson("/networks"),
  ]);
  return { info, containers, images, volumes: volumes.Volumes ?? [], networks };
}

function containerRows(containers) {
  return containers.map((container) => [
    (container.Names[0] ?? container.Id.slice(0, 12)).replace(/^\//, ""),
    wide(container.Image),
    tone(container.Status, container.State === "running" ? "good" : "dim"),
    [
      ...new Set(
        container.Ports.filter((port) => port.PublicPort).map(
          (port) => `${port.PublicPort}→${port.PrivatePort}/${port.Type}`,
        ),
      ),
    ].join(", "),
    age(container.Created * 1000),
  ]);
}

function imageRows(images) {
  return images.map((image) => [
    wide((image.RepoTags ?? []).join(", ") || "<none>"),
    element("code", {}, image.Id.replace(/^sha256:/, "").slice(0, 12)),
    bytes(image.Size),
    age(image.Created * 1000),
  ]);
}

function networkRows(networks) {
  return networks.map((network) => [
    network.Name,
    network.Driver,
    network.Scope,
    (network.IPAM?.Config ?? []).map((config) => config.Subnet).join(", "),
  ]);
}

export function machineView(machine) {
  if (machine === undefined) return element("p", { class: "empty" }, "Loading…");
  const { info, containers, images, volumes, networks } = machine;
  return [
    element(
      "p",
      { class: "dim" },
      `${info.Name}: ${info.OperatingSystem}, kernel ${info.KernelVersion}, ${info.NCPU} CPUs, ${bytes(info.MemTotal)}, Shoal ${info.ServerVersion}`,
    ),
    table("Containers", ["Name", "Image", "State", "Ports", "Made"], containerRows(containers)),
    table("Images", ["Name", "Id", "Size", "Made"], imageRows(images)),
    table(
      "Volumes",
      ["Name", "Driver", "Mountpoint"],
      volumes.map((volume) => [volume.Name, volume.Driver, wide(volume.Mountpoint)]),
    ),
    table("Networks", ["Name", "Driver", "Scope", "Subnets"], networkRows(networks)),
  ];
}

/** Ids are cut; names that stand for ids (of volumes) are not. */
function shortId(id) {
  return /^[0-9a-f]{64}$/.test(id) ? id.slice(0, 12) : id;
}

/** The newest events, newest first. */
export class EventLog {
  #events = [];

  add(event) {
    this.#events.unshift(event);
    this.#events.length = Math.min(this.#events.length, EVENT_COUNT_MAX);
  }

  get rows() {
    return this.#events.map((event) => {
      const { name, ...attributes } = event.Actor.Attributes ?? {};
      const more = Object.entries(attributes).map(([key, value]) => `${key}=${value}`);
      return [
        new Date(event.timeNano / 1e6).toLocaleTimeString(),
        event.Type,
        event.Action,
        name ?? shortId(event.Actor.ID),
        wide(tone(more.join(", "), "dim")),
      ];
    });
  }
}

export function eventsView(log) {
  const { rows } = log;
  if (rows.length === 0)
    return element("p", { class: "empty" }, "Nothing happened since this page was opened.");
  return table(
    `Events since this page was opened (newest ${rows.length})`,
    ["Time", "What", "Action", "Name", "More"],
    rows,
  );
}
