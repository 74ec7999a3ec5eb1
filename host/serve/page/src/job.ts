// A job as the form edits it: the JSON that is sent, of which the form knows some keys and leaves the others as they are.

import type { Json, JobProblem } from "./shapes";

export type Job = { [key: string]: Json };

export const EMPTY: Job = {
  name: "",
  driver: "qemu",
  config: { image_source: "", checksum: "" },
  resources: { cpus: 1, memory_mib: 256 },
};

export interface Port {
  label: string;
  guest: number | undefined;
  host: number | undefined;
  protocol: string;
}

function isObject(value: Json | undefined): value is Job {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function at(job: Job, pointer: string): Json | undefined {
  return pointer
    .split("/")
    .slice(1)
    .reduce<Json | undefined>((value, key) => (isObject(value) ? value[key] : undefined), job);
}

// The job with one value set; an undefined value removes the key.
export function put(job: Job, pointer: string, value: Json | undefined): Job {
  const [key = "", ...rest] = pointer.split("/").slice(1);
  const { [key]: inner, ...others } = job;
  if (rest.length > 0) {
    return { ...job, [key]: put(isObject(inner) ? inner : {}, `/${rest.join("/")}`, value) };
  }
  return value === undefined ? others : { ...job, [key]: value };
}

export function portsOf(job: Job): Port[] {
  const map = at(job, "/config/port_map");
  if (!isObject(map)) return [];
  return Object.entries(map).map(([label, port]) => {
    const number = (value: Json | undefined): number | undefined => (typeof value === "number" ? value : undefined);
    if (!isObject(port)) return { label, guest: number(port), host: undefined, protocol: "tcp" };
    const protocol = typeof port["protocol"] === "string" ? port["protocol"] : "tcp";
    return { label, guest: number(port["guest"]), host: number(port["host"]), protocol };
  });
}

export function withPorts(job: Job, ports: Port[]): Job {
  const entries = ports.map(({ label, guest, host, protocol }): [string, Json] => {
    if (host === undefined && protocol === "tcp") return [label, guest ?? null];
    return [
      label,
      { guest: guest ?? null, ...(host === undefined ? {} : { host }), ...(protocol === "tcp" ? {} : { protocol }) },
    ];
  });
  return put(job, "/config/port_map", ports.length > 0 ? Object.fromEntries(entries) : undefined);
}

export type Read = { job: Job } | { why: string };

// A job's text for the form, which knows JSON in qhost's own form alone.
export function read(text: string): Read {
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { why: `the form knows JSON alone, and the text is none: ${why}` };
  }
  if (!isObject(value) || !isObject(value["config"] ?? {}) || "Job" in value || "TaskGroups" in value) {
    return { why: "the form knows qhost's own form of a job alone; a Nomad job is edited as text" };
  }
  if (Array.isArray(at(value, "/config/image_source"))) {
    return { why: "the form knows one image source alone; a list of mirrors is edited as text" };
  }
  return { job: value };
}

export function written(job: Job): string {
  return JSON.stringify(job, null, 2);
}

// The problems of a field: those whose place is its pointer, or lies under it.
export function problemsAt(problems: JobProblem[], pointer: string): JobProblem[] {
  return problems.filter((problem) => problem.pointer === pointer || problem.pointer.startsWith(`${pointer}/`));
}

// Where in a JSON text the value of a pointer begins; of a key that is missing, where the object begins that should have it.
export function offsetOf(text: string, pointer: string): number {
  const keys = pointer
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  let offset = Math.max(0, text.search(/\S/));
  for (const key of keys) {
    const next = valueIn(text, offset, key);
    if (next === undefined) break;
    offset = next;
  }
  return offset;
}

// Where the value of a key, or of an index, begins in the object or list at an offset.
function valueIn(text: string, start: number, wanted: string): number | undefined {
  const tokens = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
  tokens.lastIndex = start;
  const isList = text[start] === "[";
  let [depth, index, key] = [0, 0, isList ? "0" : ""];
  let isValueNext = isList;
  for (let token = tokens.exec(text); token; token = tokens.exec(text)) {
    const [word] = token;
    const opens = word === "{" || word === "[";
    if (depth === 1 && isValueNext && key === wanted && word !== "]") return token.index;
    if (opens) depth += 1;
    else if (word === "}" || word === "]") depth -= 1;
    else if (depth === 1 && word === ":") isValueNext = true;
    else if (depth === 1 && word === ",") {
      index += 1;
      isValueNext = isList;
      key = isList ? String(index) : "";
    } else if (depth === 1 && !isValueNext && word.startsWith('"')) {
      key = keyOf(word);
    }
    if (opens && depth === 2) isValueNext = false;
    if (depth === 0 && token.index > start) return undefined;
  }
  return undefined;
}

function keyOf(word: string): string {
  try {
    return String(JSON.parse(word));
  } catch {
    return word;
  }
}

export function lineOf(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}
