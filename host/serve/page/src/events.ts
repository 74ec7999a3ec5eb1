// Streams of the API. A hidden page has none, since a browser has but six connections to a host without HTTP/2.

import { signal } from "@preact/signals";

import { ask, Problem, url, type Query } from "./api";

export type Link = "connecting" | "live" | "lost";

// The state of the page's own stream, which stands for the connection to the service.
export const link = signal<Link>("connecting");

const WAITS_MS = [1000, 2000, 4000, 8000, 15000];

export interface Stream {
  close(): void;
}

export interface Follow {
  query?: Query;
  item: (data: unknown) => void;
  // Whether an item is the last one, as of an operation.
  isLast?: (data: unknown) => boolean;
  // Whether a stream that has ended has no more to come.
  isOver?: () => Promise<boolean>;
  // Is called once there is no more to come.
  ended?: () => void;
  // Is called with the problem that refuses the stream for good.
  refused?: (problem: Problem) => void;
  status?: (link: Link) => void;
}

// Follows a stream until it is closed or over. A lost one is taken up after the last item, with longer and longer waits.
export function follow(path: string, how: Follow): Stream {
  let source: EventSource | undefined;
  let last: string | undefined;
  let failures = 0;
  let timer: number | undefined;
  let isClosed = false;

  const place = (): string => url(path, { ...how.query, after: last ?? how.query?.["after"] });

  const open = (): void => {
    drop();
    if (isClosed || document.hidden) return;
    source = new EventSource(place());
    source.onopen = () => {
      failures = 0;
      how.status?.("live");
    };
    source.onmessage = (message: MessageEvent<string>) => {
      if (message.lastEventId) last = message.lastEventId;
      if (!message.data) return;
      const data: unknown = JSON.parse(message.data);
      how.item(data);
      if (how.isLast?.(data)) end();
    };
    source.onerror = () => {
      const isRefused = source?.readyState === EventSource.CLOSED;
      drop();
      void again(isRefused);
    };
  };

  const again = async (isRefused: boolean): Promise<void> => {
    if (await how.isOver?.()) return end();
    const problem = isRefused ? await refusal(place()) : undefined;
    if (problem && problem.status >= 400 && problem.status < 500 && problem.status !== 429) {
      close();
      how.refused?.(problem);
      return;
    }
    if (isClosed) return;
    how.status?.("lost");
    timer = setTimeout(open, WAITS_MS[Math.min(failures, WAITS_MS.length - 1)]);
    failures += 1;
  };

  const drop = (): void => {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  };

  const close = (): void => {
    isClosed = true;
    drop();
    document.removeEventListener("visibilitychange", open);
    removeEventListener("offline", gone);
    removeEventListener("online", open);
  };

  const end = (): void => {
    if (isClosed) return;
    close();
    how.ended?.();
  };

  // A browser without a network sees its connections' ends late.
  const gone = (): void => {
    drop();
    how.status?.("lost");
  };

  document.addEventListener("visibilitychange", open);
  addEventListener("offline", gone);
  addEventListener("online", open);
  open();
  return { close };
}

// EventSource does not say why it was refused; a request of the same kind does.
async function refusal(place: string): Promise<Problem | undefined> {
  const stop = new AbortController();
  try {
    await ask(place, { signal: stop.signal });
    return undefined;
  } catch (error) {
    return Problem.of(error);
  } finally {
    stop.abort();
  }
}
