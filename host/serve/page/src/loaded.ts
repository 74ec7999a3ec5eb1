// What a screen reads from the API: loading, there, or a problem; read anew on request.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { Problem } from "./api";

export interface Loaded<T> {
  value: T | undefined;
  problem: Problem | undefined;
  isLoading: boolean;
  again: () => void;
}

// Reads again whenever `of` changes; an answer that a later question has overtaken is dropped.
export function useLoaded<T>(read: (signal: AbortSignal) => Promise<T>, of: readonly unknown[]): Loaded<T> {
  const [value, setValue] = useState<T | undefined>();
  const [problem, setProblem] = useState<Problem | undefined>();
  const [isLoading, setLoading] = useState(true);
  const under = useRef<AbortController | undefined>(undefined);
  const again = useCallback(() => {
    under.current?.abort();
    const mine = new AbortController();
    under.current = mine;
    setLoading(true);
    read(mine.signal)
      .then((value) => {
        if (mine.signal.aborted) return;
        setValue(() => value);
        setProblem(undefined);
        setLoading(false);
      })
      .catch((error: unknown) => {
        if (mine.signal.aborted) return;
        setProblem(Problem.of(error));
        setLoading(false);
      });
  }, of);
  useEffect(() => {
    again();
    return () => under.current?.abort();
  }, [again]);
  return { value, problem, isLoading, again };
}

// Something done every so often while the page is looked at.
export function useEvery(ms: number, work: () => void, isWanted = true): void {
  const latest = useRef(work);
  latest.current = work;
  useEffect(() => {
    if (!isWanted) return;
    const timer = setInterval(() => document.hidden || latest.current(), ms);
    return () => clearInterval(timer);
  }, [ms, isWanted]);
}
