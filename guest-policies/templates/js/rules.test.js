// Unit tests of the rules, run by Node itself; the cases try the component.

import assert from "node:assert/strict";
import { test } from "node:test";

import { decide } from "./rules.js";

test("settings are checked", () => {
  decide.checkSettings('{"teams": ["web"], "memory_mib": 64}');
  assert.throws(() => decide.checkSettings('{"team": ["web"]}'), (thrown) => thrown === "unknown setting team");
});
