/** /secrets and /configs: the same routes for two tables. The data of a secret goes in and never comes out. */
import { ClusterError } from "../../common/errors.ts";
import type { ClusterControl, Written } from "../../model/cluster-control.ts";
import type { Filters } from "../../model/engine.ts";
import type { Config, Secret } from "../../model/objects.ts";
import type { ConfigSpec, SecretSpec } from "../../model/specs.ts";
import { managerOf } from "../context.ts";
import { badParameter } from "../error-body.ts";
import { anyValue, labelsMatch, prefixMatches } from "../filters.ts";
import { lookup } from "../lookup.ts";
import { configJson, secretJson } from "../translate/cluster.ts";
import { SWARM_FIELDS } from "../vocabulary.ts";
import { get, post, remove, type Route } from "./table.ts";

const KEYS = new Set(["id", "label", "name", "names"]);
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

interface Kind {
  readonly table: "secret" | "config";
  readonly path: "/secrets" | "/configs";
  readonly json: (object: Secret | Config) => object;
  readonly create: (control: ClusterControl, spec: SecretSpec & ConfigSpec) => Promise<Written>;
  readonly update: (
    control: ClusterControl,
    id: string,
    version: number,
    spec: SecretSpec & ConfigSpec,
  ) => Promise<void>;
  readonly remove: (control: ClusterControl, id: string) => Promise<void>;
}

const SECRET: Kind = {
  table: "secret",
  path: "/secrets",
  json: secretJson,
  create: (control, spec) => control.createSecret(spec),
  update: (control, id, version, spec) => control.updateSecret(id, version, spec),
  remove: (control, id) => control.removeSecret(id),
};

const CONFIG: Kind = {
  table: "config",
  path: "/configs",
  json: configJson,
  create: (control, spec) => control.createConfig(spec),
  update: (control, id, version, spec) => control.updateConfig(id, version, spec),
  remove: (control, id) => control.removeConfig(id),
};

function matches(object: Secret | Config, filters: Filters): boolean {
  const { Name: name, Labels: labels } = object.spec;
  return (
    prefixMatches(filters, "id", object.id) &&
    prefixMatches(filters, "name", name) &&
    anyValue(filters, "names", (wanted) => wanted === name) &&
    labelsMatch(filters, "label", labels)
  );
}

function specOf(body: object, what: string): SecretSpec & ConfigSpec {
  const spec = body as Partial<SecretSpec & ConfigSpec>;
  // Go's clients use plain base64 and curl users the URL form now and then; what is stored is plain.
  const data = spec.Data?.replaceAll("-", "+").replaceAll("_", "/");
  if (data !== undefined && !BASE64.test(data)) throw badParameter(`invalid ${what}: Data must be base64`);
  return { ...spec, Name: spec.Name ?? "", ...(data === undefined ? {} : { Data: data }) };
}

function routesOf(kind: Kind): readonly Route[] {
  const { table, path } = kind;
  return [
    get(path, async (exchange, context) => {
      const control = managerOf(context);
      const filters = exchange.filters(KEYS);
      const objects: readonly (Secret | Config)[] = (await control.view()).list(table);
      exchange.send(200, objects.filter((object) => matches(object, filters)).map(kind.json));
    }),
    post(`${path}/create`, async (exchange, context) => {
      const control = managerOf(context);
      const spec = specOf(await exchange.json(SWARM_FIELDS), table);
      if (spec.Driver !== undefined && table === "secret" && spec.Data !== undefined && spec.Data !== "") {
        throw new ClusterError("invalid_argument", "invalid secret: a secret with a driver has no data");
      }
      const { id } = await kind.create(control, spec);
      exchange.send(201, { ID: id });
    }),
    get(`${path}/{id}`, async (exchange, context) => {
      const view = await managerOf(context).view();
      exchange.send(200, kind.json(lookup(view, table, exchange.param("id"))));
    }),
    post(`${path}/{id}/update`, async (exchange, context) => {
      const control = managerOf(context);
      const version = exchange.query.objectVersion(table);
      const spec = specOf(await exchange.json(SWARM_FIELDS), table);
      const { id } = lookup(await control.view(), table, exchange.param("id"));
      await kind.update(control, id, version, spec);
      exchange.empty(200);
    }),
    remove(`${path}/{id}`, async (exchange, context) => {
      const control = managerOf(context);
      const { id } = lookup(await control.view(), table, exchange.param("id"));
      await kind.remove(control, id);
      exchange.empty(204);
    }),
  ];
}

export const SECRET_ROUTES: readonly Route[] = [...routesOf(SECRET), ...routesOf(CONFIG)];
