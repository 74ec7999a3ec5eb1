// The VMs that the page knows: read once, then kept by the stream of events.

import { computed, signal } from "@preact/signals";

import { all, get, part, Problem } from "./api";
import { follow, link, type Stream } from "./events";
import { isOver, isState, type State, type Vm, type VmEvent } from "./shapes";
import { mib, seen } from "./text";

// A VM with what the table shows and sorts by, worked out once.
export interface Row {
  vm: Vm;
  since: number;
  cpus: number;
  memory_mib: number;
  ports: string;
  image: string;
  // The text that a filter looks through, in lower case.
  words: string;
}

// Changes of one VM are few; past so many VMs at one time, the list is read again.
const ONE_BY_ONE = 20;
const GATHER_MS = 150;

const known = new Map<string, Row>();
const rows = signal<Row[]>([]);
export const loading = signal(true);
export const problem = signal<Problem | undefined>(undefined);
export const withEnded = signal(false);

export const listed = computed(() => (withEnded.value ? rows.value : rows.value.filter((row) => !isOver(row.vm.state))));

export function rowOf(vm: Vm): Row {
  const forwards = vm.takes?.forwards ?? [];
  const ports = forwards.map(({ host, guest, protocol }) => `${host}→${guest}${protocol === "udp" ? "/udp" : ""}`).join(" ");
  const since = Date.parse(vm.changes.at(-1)?.at ?? "") || 0;
  const cpus = vm.takes?.resources.cpus ?? vm.reserved?.cpus ?? 0;
  const memory_mib = vm.takes?.resources.memory_mib ?? vm.reserved?.memory_mib ?? 0;
  const image = vm.takes?.image?.sha256 ?? "";
  const words = [vm.task, vm.tenant, vm.job, vm.id, vm.state, ports, image, mib(memory_mib)];
  return { vm, since, cpus, memory_mib, ports, image, words: words.map(seen).join("\n").toLowerCase() };
}

let telling: number | undefined;

// Events come in bursts, and a frame shows but the last of them.
function tell(): void {
  telling ??= requestAnimationFrame(() => {
    telling = undefined;
    rows.value = [...known.values()];
  });
}

export function put(vm: Vm): void {
  known.set(vm.id, rowOf(vm));
}

let latest = 0;

export async function load(): Promise<void> {
  const mine = ++latest;
  try {
    const vms = await all<Vm>("/v1/vms", "vms", { all: withEnded.value });
    if (mine !== latest) return;
    known.clear();
    vms.forEach(put);
    problem.value = undefined;
    tell();
  } catch (error) {
    if (mine === latest) problem.value = Problem.of(error);
  } finally {
    if (mine === latest) loading.value = false;
  }
}

const stale = new Set<string>();
let gathering: number | undefined;

function readAgain(id: string): void {
  stale.add(id);
  gathering ??= setTimeout(() => {
    gathering = undefined;
    void readStale();
  }, GATHER_MS);
}

async function readStale(): Promise<void> {
  const ids = [...stale];
  stale.clear();
  if (ids.length > ONE_BY_ONE) return load();
  await Promise.all(
    ids.map(async (id) => {
      try {
        put(await get<Vm>(`/v1/vms/${part(id)}`));
      } catch (error) {
        if (Problem.of(error).status === 404) known.delete(id);
      }
    }),
  );
  tell();
}

function happened(event: VmEvent): void {
  if (!event.vm) return;
  if (event.event === "removed") {
    known.delete(event.vm);
    tell();
    return;
  }
  const row = known.get(event.vm);
  if (row && isState(event.event)) {
    const change = { state: event.event, at: event.at, ...(event.reason ? { reason: event.reason } : {}) };
    put({ ...row.vm, state: event.event as State, changes: [...row.vm.changes, change] });
    tell();
  }
  readAgain(event.vm);
}

let stream: Stream | undefined;

// Watches VMs from now on, for as long as the page is open and its caller is the same.
export function watch(): () => void {
  stream?.close();
  known.clear();
  rows.value = [];
  loading.value = true;
  link.value = "connecting";
  stream = follow("/v1/events", {
    query: { after: "now" },
    item: (data) => happened(data as VmEvent),
    status: (now) => {
      if (now === "live" && link.value === "lost") void load();
      link.value = now;
    },
  });
  const wanted = withEnded.subscribe(() => void load());
  return () => {
    stream?.close();
    wanted();
  };
}
