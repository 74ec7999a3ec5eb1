// What the reader has asked for: shown until it is done, and kept in sight where it failed.

import { signal } from "@preact/signals";

import { ask, part, Problem } from "./api";
import { follow } from "./events";
import type { Operation } from "./shapes";

export interface Doing {
  key: number;
  title: string;
  state: "running" | "done" | "failed";
  operation?: Operation;
  problem?: Problem;
}

export const doings = signal<Doing[]>([]);

// How long a task that is done stays in sight.
const DONE_MS = 5000;

let latest = 0;

function change(key: number, to: Partial<Doing>): void {
  doings.value = doings.value.map((doing) => (doing.key === key ? { ...doing, ...to } : doing));
}

export function forget(key: number): void {
  doings.value = doings.value.filter((doing) => doing.key !== key);
}

type Told = (problem: Problem) => void;

// Sends a request that is done at once. Gives its answer; nothing if it failed.
export function act<T>(title: string, work: () => Promise<T>, told?: Told): Promise<T | undefined> {
  return doing(title, work, told);
}

// Begins an operation, and follows it to its end.
export function operate(title: string, begin: () => Promise<Operation | undefined>, told?: Told): Promise<Operation | undefined> {
  const work = async (key: number): Promise<Operation | undefined> => {
    const begun = await begin();
    const ended = begun && (await followed(begun, (operation) => change(key, { operation })));
    if (ended?.error) throw new Problem(ended.error);
    return ended;
  };
  return doing(title, work, told);
}

async function doing<T>(title: string, work: (key: number) => Promise<T>, told?: Told): Promise<T | undefined> {
  const key = ++latest;
  doings.value = [...doings.value, { key, title, state: "running" }];
  try {
    const done = await work(key);
    change(key, { state: "done" });
    setTimeout(() => forget(key), DONE_MS);
    return done;
  } catch (error) {
    const problem = Problem.of(error);
    // A screen that shows its own problems is told of this one instead.
    if (told) forget(key);
    else change(key, { state: "failed", problem });
    told?.(problem);
    return undefined;
  }
}

function followed(begun: Operation, changed: (operation: Operation) => void): Promise<Operation> {
  changed(begun);
  if (begun.state !== "running") return Promise.resolve(begun);
  return new Promise((done, failed) => {
    follow(`/v1/operations/${part(begun.id)}/events`, {
      item: (data) => {
        const operation = data as Operation;
        changed(operation);
        if (operation.state !== "running") done(operation);
      },
      isLast: (data) => (data as Operation).state !== "running",
      refused: failed,
    });
  });
}

// Gives an operation up; a VM that runs already goes on.
export async function giveUp(operation: Operation): Promise<void> {
  await act("Give it up", () => ask(`/v1/operations/${part(operation.id)}`, { method: "DELETE" }));
}
