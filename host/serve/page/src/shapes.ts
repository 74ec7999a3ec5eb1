// What the API gives, as far as the page shows it; fields that an earlier version did not write are optional.

export type State = "created" | "fetching" | "starting" | "running" | "paused" | "stopping" | "exited" | "failed" | "lost";

export const STATES: readonly State[] = [
  "created",
  "fetching",
  "starting",
  "running",
  "paused",
  "stopping",
  "exited",
  "failed",
  "lost",
];

export function isState(text: string): text is State {
  return (STATES as readonly string[]).includes(text);
}

export function isOver(state: State): boolean {
  return state === "exited" || state === "failed" || state === "lost";
}

export interface Caller {
  name: string;
  role: "operator" | "tenant";
  tenant: string | null;
}

export interface StateChange {
  state: State;
  at: string;
  reason?: string;
}

export interface Forward {
  label: string;
  bind: string;
  host: number;
  guest: number;
  protocol: string;
}

export interface Ended {
  reason: string;
  by?: string;
  message?: string;
  started_at: string;
  ended_at: string;
}

export interface Vm {
  id: string;
  task: string;
  job: string;
  tenant: string;
  state: State;
  changes: StateChange[];
  restarts: number;
  started_at?: string;
  ready_at?: string;
  boot_failed_at?: string;
  stop_by?: string;
  kept_bytes?: number;
  qemu?: { pid: number } | null;
  ended?: Ended;
  takes?: {
    resources: { cpus: number; memory_mib: number };
    forwards: Forward[];
    image?: { sha256: string } | null;
    cage?: { cgroup?: { memory_bytes?: number } | null } & { [key: string]: Json | undefined };
  };
  reserved?: Usage;
}

export interface VmDetails extends Vm {
  asked?: Task;
  decision?: Decision;
  disk?: { bytes: number; used_bytes?: number; max_bytes: number };
  disks?: DataDisk[];
  restart?: Json;
  supervisor_is_current?: boolean;
}

export interface DataDisk {
  name: string;
  bytes: number;
  used_bytes?: number;
  image?: string;
  volume_path?: string;
  read_only: boolean;
}

export interface Task {
  tenant: string;
  job: string;
  name: string;
  image: { source: string; sha256?: string; mirrors?: string[] } & { [key: string]: Json | undefined };
  resources?: { cpus: number; memory_mib: number };
  meta?: Record<string, string>;
}

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Change {
  field: string;
  from: Json;
  to: Json;
}

export interface Violation {
  code: string;
  field: string;
  message: string;
  hint?: string;
}

export interface PolicyRecord {
  name: string;
  layer: "host" | "tenant";
  mode: "enforce" | "monitor";
  version: string;
  sha256: string;
  answer: "allowed" | "refused" | "failed" | "not-asked";
  changes: Change[];
  violations: Violation[];
  fault?: string;
  contract_breaches?: string[];
  log: { level: string; message: string }[];
  log_dropped: number;
  cost: { micros: number; peak_memory: number };
}

export interface Decision {
  policies: PolicyRecord[];
  host: { answer: PolicyRecord["answer"]; violations: Violation[] };
  conflicts?: { field: string; writers: { policy: string; to: Json }[] }[];
  place?: string;
  launch: { warnings?: string[] } & { [key: string]: Json | undefined };
}

export interface Recorded {
  id: string;
  outcome: Outcome;
  time: string;
  task: Task;
  occasion?: string;
  decision: Decision;
  not_launched?: { by: string; reason: string };
  operation?: { vm: string; operation: Json; actor: { name: string; door: string } };
  error?: string;
  masked?: string[];
}

export type Outcome = "allowed" | "denied" | "cannot-run" | "failed" | "interrupted" | "undecided" | "not-launched";

export const OUTCOMES: readonly Outcome[] = [
  "allowed",
  "denied",
  "cannot-run",
  "failed",
  "interrupted",
  "undecided",
  "not-launched",
];

export interface VmEvent {
  at: string;
  vm?: string;
  task: string;
  tenant: string;
  event: string;
  request?: string;
  actor?: string;
  by?: string;
  reason?: string;
}

export interface ExecReport {
  exit_code: number | null;
  signal: number | null;
  stdout: string;
  stderr: string;
  truncated: boolean;
}

export interface JobProblem {
  pointer: string;
  line?: number;
  column?: number;
  found: string;
  expected: string;
  hint?: string;
}

export interface ProblemDetails {
  type: string;
  title: string;
  status: number;
  detail: string;
  causes?: string[];
  hint?: string;
  refused_by?: string;
  problems?: JobProblem[];
  decision?: Decision;
}

export interface Operation {
  id: string;
  kind: string;
  tenant: string;
  actor: string;
  state: "running" | "succeeded" | "failed";
  step?: string;
  vm?: string;
  decision?: string;
  began_at: string;
  ended_at?: string;
  error?: ProblemDetails;
}

export interface Stats {
  cpu_ms: number | null;
  resident_bytes: number | null;
  threads: number | null;
  cgroup?: { memory_bytes?: number | null; memory_peak_bytes?: number | null; oom_kills?: number | null } | null;
  disks: { device: string; read_bytes: number; written_bytes: number; reads: number; writes: number; failed: number }[];
  connections: number | null;
}

export interface Usage {
  vms: number;
  cpus: number;
  memory_mib: number;
  disk_bytes: number;
  ports: number;
}

export interface QuotaUsage {
  tenant?: string | null;
  used: Usage;
  image_bytes: number;
  quota: Partial<Record<keyof Usage | "image_bytes", number | null>>;
}

export interface Volume {
  tenant: string;
  name: string;
  bytes: number;
  disk_usage: number;
  created_at: string;
  written_at: string;
  in_use: boolean;
}

export interface Image {
  sha256: string;
  format?: string;
  bytes?: number;
  disk_bytes?: number;
  disk_usage: number;
  source?: string;
  tenant?: string | null;
  fetched_at?: string;
  used_at?: string;
}

export interface Host {
  attributes: Record<string, string>;
  cpus: number;
  memory_mib: number;
  accelerators: { name: string; works: boolean }[];
  free_bytes?: number;
}

export interface Policy {
  name: string;
  sha256: string;
  mode: "enforce" | "monitor";
  version: string | null;
  evaluations: number;
  refusals: number;
  mean_us: number | null;
}

export interface Total {
  what: string;
  decisions: number;
}

export interface Why {
  policy: string;
  code: string;
  field: string;
}

export interface Difference {
  time: string;
  tenant: string;
  job: string;
  task: string;
  was: string;
  now: string;
  launch: Change[];
  violations: Why[];
  no_longer: Why[];
  error?: string;
}

export interface Replay {
  records: number;
  identical: number;
  same: number;
  differ: number;
  masked: number;
  not_again: { tenant: string; task: string; reason: string }[];
  totals: { outcomes: Total[]; tenants: Total[]; rules: Total[] };
  differences: Difference[];
}

export interface Configuration {
  generation: number;
  since: string;
  can_step_back: boolean;
}
