// Who looks at the page, and at which host.

import { computed, signal } from "@preact/signals";

import { ask, get, Problem, whenUnknown } from "./api";
import type { Caller, Host } from "./shapes";

export type Session =
  | { state: "loading" }
  | { state: "unknown"; problem?: Problem }
  | { state: "known"; caller: Caller }
  | { state: "problem"; problem: Problem };

export const session = signal<Session>({ state: "loading" });
export const version = signal("");
export const host = signal<Host | undefined>(undefined);

export const caller = computed(() => (session.value.state === "known" ? session.value.caller : undefined));
export const isOperator = computed(() => caller.value?.role === "operator");

whenUnknown(() => {
  session.value = { state: "unknown" };
});

let timer: number | undefined;

export async function begin(): Promise<void> {
  clearTimeout(timer);
  try {
    session.value = { state: "known", caller: await get<Caller>("/v1/caller") };
  } catch (error) {
    const problem = Problem.of(error);
    if (problem.status === 401) {
      session.value = { state: "unknown" };
    } else if (problem.status === 403) {
      // The caller is known, and is let in nowhere, as when its tenant is gone.
      session.value = { state: "unknown", problem };
    } else {
      session.value = { state: "problem", problem };
      timer = setTimeout(() => void begin(), 3000);
    }
    return;
  }
  void describe();
}

// Reads the header's text about the host; the page works without it.
async function describe(): Promise<void> {
  try {
    version.value = (await get<{ version: string }>("/version")).version;
    host.value = await get<Host>("/v1/host");
  } catch {
    // The screens say what is wrong.
  }
}

export async function login(token: string): Promise<void> {
  await ask("/v1/session", {
    method: "POST",
    body: JSON.stringify({ token }),
    headers: { "Content-Type": "application/json" },
  });
  await begin();
}

export async function logout(): Promise<void> {
  await ask("/v1/session", { method: "DELETE" });
  session.value = { state: "unknown" };
}
