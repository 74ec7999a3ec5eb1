// Requests to the API, with what is not done as a Problem.

import type { ProblemDetails } from "./shapes";

export class Problem extends Error {
  constructor(readonly details: ProblemDetails) {
    super(details.detail);
  }

  get status(): number {
    return this.details.status;
  }

  // A request that got no answer: the service is not there, or the network is not.
  get isLost(): boolean {
    return this.details.status === 0;
  }

  static of(error: unknown): Problem {
    if (error instanceof Problem) return error;
    const detail = error instanceof Error ? error.message : String(error);
    return new Problem({ type: "urn:qhost:page", title: "Page", status: -1, detail });
  }

  static local(detail: string, hint?: string): Problem {
    return new Problem({ type: "urn:qhost:page", title: "Page", status: -1, detail, ...(hint ? { hint } : {}) });
  }
}

// Is told of each 401, so that the login comes up whatever was asked.
let onUnknown: () => void = () => {};

export function whenUnknown(told: () => void): void {
  onUnknown = told;
}

export interface Ask {
  method?: string;
  query?: Query;
  body?: BodyInit;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

export type Query = Record<string, string | number | boolean | undefined>;

export function url(path: string, query: Query = {}): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== "" && value !== false) params.set(key, String(value));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}

// A part of a path: an id, or a name that a tenant chose.
export function part(name: string): string {
  return encodeURIComponent(name);
}

export async function ask(path: string, how: Ask = {}): Promise<Response> {
  const { query, method = "GET", body, headers, signal } = how;
  let response: Response;
  try {
    response = await fetch(url(path, query), {
      method,
      credentials: "same-origin",
      ...(body === undefined ? {} : { body }),
      ...(headers ? { headers } : {}),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem({
      type: "urn:qhost:unreachable",
      title: "No answer",
      status: 0,
      detail: "the service did not answer",
      hint: "the page tries again by itself; see whether qhost serve runs, and whether the network is up",
    });
  }
  if (response.ok) return response;
  if (response.status === 401 && path !== "/v1/session") onUnknown();
  throw new Problem(await detailsOf(response));
}

async function detailsOf(response: Response): Promise<ProblemDetails> {
  const { status, statusText } = response;
  const known = { type: "about:blank", title: statusText, status, detail: `the service answered ${status} ${statusText}` };
  try {
    const told: unknown = await response.json();
    if (typeof told === "object" && told !== null && "detail" in told) return { ...known, ...(told as ProblemDetails) };
  } catch {
    // A proxy's answer is no JSON; its status says enough.
  }
  return known;
}

export async function get<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> {
  const response = await ask(path, { ...(query ? { query } : {}), signal });
  return (await response.json()) as T;
}

export async function post<T>(path: string, how: Ask = {}): Promise<T | undefined> {
  const response = await ask(path, { method: "POST", ...how });
  return response.status === 204 ? undefined : ((await response.json()) as T);
}

// All pages of a list. The bound keeps a list that grows for ever from filling the page.
export async function all<T>(path: string, name: string, query: Query = {}, signal?: AbortSignal): Promise<T[]> {
  const items: T[] = [];
  let after: string | undefined;
  for (let page = 0; page < 20; page++) {
    const told = await get<Record<string, T[] | string>>(path, { ...query, limit: 1000, after }, signal);
    const list = told[name];
    if (Array.isArray(list)) items.push(...list);
    after = typeof told["next"] === "string" ? told["next"] : undefined;
    if (after === undefined) break;
  }
  return items;
}
