// What is built of a policy in JavaScript: its rules, and what they print in the policy's log.

import { decide } from "./rules.js";
import { log } from "qhost:policy/log@__version__";

const line = (level) => (...parts) => log(level, parts.map(String).join(" "));

// Without WASI there is no standard output: what is printed would trap.
globalThis.console = {
  trace: line("debug"),
  debug: line("debug"),
  log: line("info"),
  info: line("info"),
  warn: line("warn"),
  error: line("error"),
};

export { decide };
