// Where the page is: `#/vms/ID?q=text`. All is behind the hash, so that the service answers one path alone.

import { signal } from "@preact/signals";

export interface Route {
  path: string[];
  query: URLSearchParams;
}

function parsed(): Route {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const route = signal<Route>(parsed());

addEventListener("hashchange", () => {
  route.value = parsed();
});

export function to(...path: string[]): string {
  return `#/${path.map(encodeURIComponent).join("/")}`;
}

export function go(place: string): void {
  location.hash = place;
}

// Filters stand in the address, so that a link to what is looked at can be sent; each letter typed is no step of the history.
export function filterBy(name: string, value: string): void {
  const query = new URLSearchParams(route.value.query);
  if (value) query.set(name, value);
  else query.delete(name);
  const text = query.toString();
  history.replaceState(null, "", to(...route.value.path) + (text ? `?${text}` : ""));
  route.value = parsed();
}
