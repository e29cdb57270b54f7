import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { parseServicePort, parseShortPort } from "./ports.ts";

test("parseServicePort() reads the short form with ranges and the long form with every field", () => {
  assert.deepEqual(parseServicePort("8080-8081:80-81/udp"), [
    { Protocol: "udp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" },
    { Protocol: "udp", TargetPort: 81, PublishedPort: 8081, PublishMode: "ingress" },
  ]);
  assert.deepEqual(parseServicePort("protocol=TCP,Mode=host,target=80,published=8080"), [
    { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" },
  ]);
  assert.deepEqual(parseShortPort("[::1]:5000:80"), [
    { hostIp: "::1", published: 5000, target: 80, protocol: "tcp" },
  ]);
});

test("parseServicePort() drops nothing that it was given: ranges in the long form, other fields, addresses", () => {
  for (const [text, why] of [
    ["target=80-90,published=8080-8090", /want one port, got the range "80-90"$/],
    ["target=80,published=8080-8081", /want one port, got the range "8080-8081"$/],
    ["target=80,name=web", /"name=web" is not one of protocol=, mode=, target=, published=$/],
    ["published=80", /"" is not a port or range from 1 to 65535$/],
    ["target=80,mode=tunnel", /mode must be ingress or host, got "tunnel"$/],
    ["127.0.0.1:80:80", /a service port cannot be bound to one address$/],
    ["80-82:80-81", /the two ranges must be of equal length$/],
    ["80/icmp", /protocol must be tcp, udp or sctp, got "icmp"$/],
  ] as const) {
    assert.throws(
      () => parseServicePort(text),
      (error) =>
        hasCode(error, "invalid_argument") &&
        error.message.startsWith(`Invalid port "${text}": `) &&
        why.test(error.message),
      text,
    );
  }
});
