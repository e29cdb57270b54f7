import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { hasCode } from "../common/errors.ts";
import {
  constraintMatches,
  firstUnmet,
  parseConstraint,
  parseConstraints,
  platformMatches,
} from "./constraints.ts";
import type { Node } from "./objects.ts";

const node: Node = {
  id: "abc123",
  version: 1,
  createdAt: "",
  updatedAt: "",
  spec: { Role: "manager", Availability: "active", Labels: { zone: "B", "com.example.Rack": "r1" } },
  description: {
    Hostname: "Host1",
    Platform: { OS: "linux", Architecture: "x86_64" },
    Resources: { NanoCPUs: 1, MemoryBytes: 1 },
    Engine: { EngineVersion: "1", Labels: { storage: "ssd" } },
  },
  status: { state: 2, message: "", addr: "192.0.2.17" },
  rpcAddress: "",
  dataPathAddress: "",
  certificateRole: "worker",
};

describe("parseConstraint()", () => {
  it("matches every key that Swarm has, without case, with blanks around the operator", () => {
    for (const text of [
      "node.id==abc123",
      "node.id == ABC123",
      "Node.Hostname==host1",
      "node.role==worker",
      "node.role!=manager",
      "node.platform.os==Linux",
      "node.platform.arch==amd64",
      "node.platform.arch==x86_64",
      "node.platform.arch!=arm64",
      "node.labels.zone==b",
      "node.labels.com.example.Rack==r1",
      "node.labels.missing!=x",
      "engine.labels.storage==ssd",
      "node.ip==192.0.2.17",
      "node.ip==192.0.2.0/24",
      "node.ip!=198.51.100.0/24",
    ]) {
      assert.equal(constraintMatches(parseConstraint(text), node), true, text);
    }
  });

  it("does not match what differs, nor a label that is missing, nor another case of a label's name", () => {
    for (const text of [
      "node.id==abc",
      "node.hostname!=HOST1",
      "node.role==manager",
      "node.labels.zone==a",
      "node.labels.Zone==b",
      "node.labels.missing==x",
      "engine.labels.storage!=SSD",
      "node.ip==192.0.2.128/25",
      "node.ip==2001:db8::/32",
      "node.labels.toString==x",
    ]) {
      assert.equal(constraintMatches(parseConstraint(text), node), false, text);
    }
  });

  it("names what is wrong with a bad one", () => {
    for (const [text, wanted] of [
      ["node.role=worker", /KEY==VALUE/],
      ["node.role>worker", /KEY==VALUE/],
      ["==x", /key "" is invalid/],
      ["node.role==", /value "" is invalid/],
      ["node.role==a;b", /value "a;b" is invalid/],
      ["node.colour==red", /node\.labels\.\*, engine\.labels\.\*, got "node\.colour"/],
    ] as const) {
      assert.throws(
        () => parseConstraint(text),
        (caught) => hasCode(caught, "invalid_argument") && wanted.test(caught.message),
      );
    }
  });

  it("firstUnmet() names the first that fails", () => {
    const constraints = parseConstraints(["node.role==worker", "node.labels.zone==a", "node.id==zzz"]);
    assert.equal(firstUnmet(constraints, node)?.text, "node.labels.zone==a");
    assert.equal(firstUnmet(parseConstraints(undefined), node), undefined);
  });

  it("platformMatches() knows other names of an architecture; empty fields match everything", () => {
    assert.equal(
      platformMatches(
        [
          { OS: "linux", Architecture: "arm64" },
          { OS: "linux", Architecture: "amd64" },
        ],
        node,
      ),
      true,
    );
    assert.equal(platformMatches([{ OS: "linux", Architecture: "aarch64" }], node), false);
    assert.equal(platformMatches([{ OS: "linux" }], node), true);
    assert.equal(platformMatches([], node), true);
    const { description: _description, ...bare } = node;
    assert.equal(platformMatches([{ OS: "linux" }], bare), false);
  });
});
