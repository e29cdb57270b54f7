/** Parsing and printing of durations and sizes against what Go and docker print. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import {
  binarySize,
  formatDuration,
  humanDuration,
  humanSize,
  parseBytes,
  parseDuration,
  parseNanoCpus,
} from "./units.ts";

test("parseDuration() reads Go durations", () => {
  assert.equal(parseDuration("1m30s"), 90e9);
  assert.equal(parseDuration("1.5h"), 5400e9);
  assert.equal(parseDuration("100ms"), 1e8);
  assert.equal(parseDuration("0"), 0);
  assert.equal(parseDuration("-2us"), -2000);
});

test("parseDuration() refuses what Go refuses", () => {
  for (const text of ["", "5", "1d", "1h 2m", "s", "1.s.", "1m30", "99999999999h"]) {
    assert.throws(
      () => parseDuration(text),
      (caught) => hasCode(caught, "invalid_argument"),
      text,
    );
  }
});

test("parseDuration() refuses a text of any length at once, and does not print it whole", () => {
  const text = "1".repeat(100_000);
  assert.throws(
    () => parseDuration(text),
    (caught) =>
      hasCode(caught, "invalid_argument") &&
      /^Invalid duration "1{80}…": expected at most 256 characters, got 100000$/.test(String(caught.message)),
  );
  assert.equal(parseDuration(`${"0".repeat(254)}1s`), 1e9);
});

test("formatDuration() prints as Go does, and reads back", () => {
  const expected: readonly [number, string][] = [
    [0, "0s"],
    [1, "1ns"],
    [1500, "1.5µs"],
    [250e6, "250ms"],
    [1500e6, "1.5s"],
    [90e9, "1m30s"],
    [3600e9, "1h0m0s"],
    [7384500e6, "2h3m4.5s"],
  ];
  for (const [nanoseconds, text] of expected) {
    assert.equal(formatDuration(nanoseconds), text);
    assert.equal(parseDuration(text), nanoseconds);
  }
});

test("parseBytes() uses binary multiples and refuses other words", () => {
  assert.equal(parseBytes("64M"), 64 * 1024 ** 2);
  assert.equal(parseBytes("1.5GiB"), 1.5 * 1024 ** 3);
  assert.equal(parseBytes("10kb"), 10240);
  assert.equal(parseBytes("512"), 512);
  assert.equal(parseBytes("7.9p"), Math.trunc(7.9 * 1024 ** 5));
  for (const text of ["", "M", "-1", "1x", "1.2.3k", "8p", "99999999999T"])
    assert.throws(() => parseBytes(text), text);
});

test("parseNanoCpus() reads decimals", () => {
  assert.equal(parseNanoCpus("0.5"), 5e8);
  assert.equal(parseNanoCpus(".25"), 25e7);
  for (const text of ["", ".", "a", "-1", "0.1234567891"]) assert.throws(() => parseNanoCpus(text), text);
});

test("humanSize(), binarySize() and humanDuration() print docker's forms", () => {
  assert.equal(humanSize(4261550, 3), "4.26MB");
  assert.equal(humanSize(0), "0B");
  assert.equal(humanSize(1000), "1kB");
  assert.equal(humanSize(12_000_000_000), "12GB");
  assert.equal(binarySize(1536), "1.5KiB");
  assert.equal(binarySize(25_000_000_000), "23.28GiB");
  assert.equal(humanDuration(500), "Less than a second");
  assert.equal(humanDuration(61_000), "About a minute");
  assert.equal(humanDuration(2 * 3600_000), "2 hours");
  assert.equal(humanDuration(3 * 24 * 3600_000), "3 days");
});
