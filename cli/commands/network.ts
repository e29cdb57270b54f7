/** `shoal network …`: networks of the cluster (overlay) and of this machine. */
import { isInBlock } from "../../common/addresses.ts";
import { ClusterError } from "../../common/errors.ts";
import type { ApiClient } from "../client/api-client.ts";
import type { ApiInfo, ApiNetwork } from "../client/types.ts";
import type { CommandContext, CommandDefinition } from "../command.ts";
import { bool, FILTER_FLAG, FORMAT_FLAG, list, NO_TRUNC_FLAG, QUIET_FLAG, text } from "../command.ts";
import { integerFlag, pairsFlag, parseFilters, parsePairs } from "../flag-values.ts";
import type { ListFormat } from "../output/table.ts";
import { formatList, labelText, shortId } from "../output/table.ts";
import { confirm, inspectCommand, removeCommand } from "./verbs.ts";

export { runProgram } from "../program.ts";

function networkList(isTruncated: boolean): ListFormat<ApiNetwork> {
  const id = (network: ApiNetwork): string => (isTruncated ? shortId(network.Id) : network.Id);
  return {
    columns: {
      ID: { header: "NETWORK ID", get: id },
      Name: { header: "NAME", get: (network) => network.Name },
      Driver: { header: "DRIVER", get: (network) => network.Driver ?? "" },
      Scope: { header: "SCOPE", get: (network) => network.Scope ?? "" },
      IPv4: { header: "IPV4", get: (network) => network.EnableIPv4 ?? true },
      IPv6: { header: "IPV6", get: (network) => network.EnableIPv6 ?? false },
      Internal: { header: "INTERNAL", get: (network) => network.Internal ?? false },
      Labels: { header: "LABELS", get: (network) => labelText(network.Labels) },
      Label: { header: "LABEL", get: (network) => (key: unknown) => network.Labels?.[String(key)] ?? "" },
      CreatedAt: { header: "CREATED AT", get: (network) => network.Created ?? "" },
    },
    defaults: ["ID", "Name", "Driver", "Scope"],
    quiet: id,
  };
}

interface PoolDraft {
  readonly Subnet: string;
  readonly IPRange?: string;
  readonly Gateway?: string;
  readonly AuxiliaryAddresses?: Readonly<Record<string, string>>;
}

/** The auxiliary addresses that the subnet holds. */
function auxiliaryIn(
  subnet: string,
  addresses: Readonly<Record<string, string>>,
): Pick<PoolDraft, "AuxiliaryAddresses"> {
  const held = Object.entries(addresses).filter(([, address]) => isInBlock(address, subnet));
  return held.length === 0 ? {} : { AuxiliaryAddresses: Object.fromEntries(held) };
}

/** Pairs subnets, ranges and gateways by their order, as docker's flags are used in practice. */
function poolsOf(context: CommandContext): PoolDraft[] {
  const { flags } = context;
  const [ranges, gateways] = [flags.list("ip-range"), flags.list("gateway")];
  const subnets = flags.list("subnet");
  const auxiliary = pairsFlag(flags, "aux-address") ?? {};
  for (const [name, address] of Object.entries(auxiliary)) {
    if (subnets.some((subnet) => isInBlock(address, subnet))) continue;
    throw new ClusterError(
      "invalid_argument",
      `Invalid value for --aux-address: expected an address of a --subnet, got "${name}=${address}"`,
    );
  }
  if (ranges.length > subnets.length || gateways.length > subnets.length) {
    throw new ClusterError("invalid_argument", "Each --gateway and --ip-range needs its own --subnet");
  }
  return subnets.map((subnet, index) => ({
    Subnet: subnet,
    ...auxiliaryIn(subnet, auxiliary),
    ...(ranges[index] === undefined ? {} : { IPRange: ranges[index] }),
    ...(gateways[index] === undefined ? {} : { Gateway: gateways[index] }),
  }));
}

async function runCreate(context: CommandContext): Promise<void> {
  const { client, flags, out, err } = context;
  const inSwarm = async (): Promise<boolean> =>
    (await client.get<ApiInfo>("/info")).Swarm?.ControlAvailable === true;
  // On a manager a network without a driver is meant for services; elsewhere for this machine's containers.
  const driver = flags.string("driver") ?? ((await inSwarm()) ? "overlay" : "bridge");
  const answer = await client.post<{ Id: string; Warning?: string }>("/networks/create", {
    body: {
      Name: context.args[0] ?? "",
      Driver: driver,
      Scope: flags.string("scope") ?? "",
      Internal: flags.bool("internal"),
      Attachable: flags.bool("attachable"),
      Ingress: flags.bool("ingress"),
      EnableIPv6: flags.bool("ipv6"),
      ConfigOnly: flags.bool("config-only"),
      ...(flags.has("config-from") ? { ConfigFrom: { Network: flags.string("config-from") } } : {}),
      IPAM: {
        Driver: flags.string("ipam-driver") ?? "default",
        Options: parsePairs(flags.list("ipam-opt")),
        Config: poolsOf(context),
      },
      Options: parsePairs(flags.list("opt")),
      Labels: parsePairs(flags.list("label")),
    },
  });
  if ((answer.Warning ?? "") !== "") err.write(`${answer.Warning}\n`);
  out.write(`${answer.Id}\n`);
}

/** False: it carries the published ports of all services, and the user would rather keep it. */
async function removeNetwork(client: ApiClient, name: string, context: CommandContext): Promise<unknown> {
  const path = `/networks/${encodeURIComponent(name)}`;
  const found = context.flags.bool("force") ? undefined : await client.find<ApiNetwork>(path);
  const question = `This removes network "${name}": no port that services publish is served until there is another ingress network. Go on?`;
  if (found?.Ingress === true && !(await confirm(context, question))) return false;
  return await client.delete(path);
}

function attachCommand(name: "connect" | "disconnect"): CommandDefinition {
  return {
    name,
    usage: "[OPTIONS] NETWORK CONTAINER",
    summary:
      name === "connect" ? "Connect a container to a network" : "Disconnect a container from a network",
    argsMin: 2,
    argsMax: 2,
    flags:
      name === "connect"
        ? [
            list("alias", "name", "Name of the container on this network"),
            list("driver-opt", "key=value", "Option of the driver for this container"),
            text("gw-priority", "number", "The network with the highest is the way out"),
            text("ip", "address", "IPv4 address"),
            text("ip6", "address", "IPv6 address"),
            list("link", "container[:alias]", "Name of another container"),
          ]
        : [bool("force", "Disconnect even if the container is not running", "f")],
    run: async ({ client, flags, args }) => {
      const [network = "", container = ""] = args;
      const [ip, ip6] = [flags.string("ip"), flags.string("ip6")];
      const addresses = {
        ...(ip === undefined ? {} : { IPv4Address: ip }),
        ...(ip6 === undefined ? {} : { IPv6Address: ip6 }),
      };
      const priority = integerFlag(flags, "gw-priority");
      await client.post(`/networks/${encodeURIComponent(network)}/${name}`, {
        body:
          name === "connect"
            ? {
                Container: container,
                EndpointConfig: {
                  Aliases: flags.list("alias"),
                  ...(Object.keys(addresses).length === 0 ? {} : { IPAMConfig: addresses }),
                  ...(flags.has("driver-opt") ? { DriverOpts: parsePairs(flags.list("driver-opt")) } : {}),
                  ...(priority === undefined ? {} : { GwPriority: priority }),
                  ...(flags.has("link") ? { Links: flags.list("link") } : {}),
                },
              }
            : { Container: container, Force: flags.bool("force") },
      });
    },
  };
}

const network: CommandDefinition = {
  name: "network",
  usage: "COMMAND",
  summary: "Networks of the cluster and of this machine",
  argsMin: 0,
  flags: [],
  commands: [
    {
      name: "create",
      usage: "[OPTIONS] NETWORK",
      summary: "Create a network",
      argsMin: 1,
      argsMax: 1,
      flags: [
        bool("attachable", "Let plain containers attach"),
        list("aux-address", "name=address", "Address of the subnet that no container gets"),
        text("config-from", "network", "Take the configuration of this network"),
        bool("config-only", "Make a configuration only"),
        text("driver", "name", "overlay (default on managers) or bridge", "d"),
        list("gateway", "address", "Gateway of the subnet"),
        bool("ingress", "Make the network of published ports"),
        bool("internal", "No way out of this network"),
        list("ip-range", "subnet", "Part of the subnet to take addresses from"),
        text("ipam-driver", "name", "Address manager"),
        list("ipam-opt", "key=value", "Option of the address manager"),
        bool("ipv6", "Enable IPv6"),
        list("label", "key=value", "Label"),
        list("opt", "key=value", "Option of the driver", "o"),
        text("scope", "scope", "swarm or local"),
        list("subnet", "subnet", "Subnet in CIDR form"),
      ],
      run: runCreate,
    },
    {
      name: "ls",
      aliases: ["list"],
      usage: "[OPTIONS]",
      summary: "List networks",
      argsMin: 0,
      argsMax: 0,
      flags: [FILTER_FLAG, FORMAT_FLAG, QUIET_FLAG, NO_TRUNC_FLAG],
      run: async ({ client, flags, out }) => {
        const networks = await client.get<ApiNetwork[]>("/networks", {
          filters: parseFilters(flags.list("filter")),
        });
        networks.sort((left, right) => (left.Name < right.Name ? -1 : 1));
        out.write(
          formatList(networks, networkList(!flags.bool("no-trunc")), {
            format: flags.string("format"),
            isQuiet: flags.bool("quiet"),
          }),
        );
      },
    },
    inspectCommand(
      "NETWORK",
      async (client, name, { flags }) =>
        await client.get(`/networks/${encodeURIComponent(name)}`, {
          query: { verbose: flags.bool("verbose"), scope: flags.string("scope") },
        }),
      [bool("verbose", "With services and tasks", "v"), text("scope", "scope", "swarm or local")],
    ),
    attachCommand("connect"),
    attachCommand("disconnect"),
    removeCommand("NETWORK", removeNetwork, [
      bool("force", "Don't ask, and don't fail if a network is missing", "f"),
    ]),
    {
      name: "prune",
      usage: "[OPTIONS]",
      summary: "Remove networks of this machine that nothing uses",
      argsMin: 0,
      argsMax: 0,
      flags: [bool("force", "Don't ask", "f"), list("filter", "key=value", "Only what matches")],
      run: async (context) => {
        if (!(await confirm(context, "This removes all networks that no container uses. Go on?"))) return;
        const answer = await context.client.post<{ NetworksDeleted?: string[] | null }>("/networks/prune", {
          filters: parseFilters(context.flags.list("filter")),
        });
        for (const name of answer.NetworksDeleted ?? []) context.out.write(`${name}\n`);
      },
    },
  ],
};

export const definitions: readonly CommandDefinition[] = [network];
