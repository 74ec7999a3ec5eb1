// What was decided, for whom and why: searchable, the latest first.

import { useEffect, useState } from "preact/hooks";

import { get, Problem } from "../api";
import { useLoaded } from "../loaded";
import { DecisionFilters } from "../parts/DecisionFilters";
import { DecisionTable } from "../parts/DecisionTable";
import { Heading } from "../parts/Heading";
import { Empty, Loading, Trouble } from "../parts/Trouble";
import { route, to } from "../route";
import type { Recorded } from "../shapes";
import { count } from "../text";
import { asTime } from "../times";

interface Page {
  decisions: Recorded[];
  next?: string;
}

const PAGE = 100;
// A typed letter sends a request once no other letter has come for so long.
const TYPING_MS = 250;

export function Decisions() {
  const { query } = route.value;
  const filter = (name: string): string => query.get(name) ?? "";
  const words = useSettled(filter("q"));
  const tenant = useSettled(filter("tenant"));
  const wanted = {
    q: words,
    tenant,
    outcome: filter("outcome"),
    policy: filter("policy"),
    since: asTime(filter("since")),
    until: asTime(filter("until")),
  };
  const asked = JSON.stringify(wanted);
  const {
    value: page,
    problem,
    isLoading,
    again,
  } = useLoaded((signal) => get<Page>("/v1/decisions", { ...wanted, limit: PAGE }, signal), [asked]);
  const [more, setMore] = useState<Page[]>([]);
  const [moreProblem, setMoreProblem] = useState<Problem | undefined>();
  useEffect(() => setMore([]), [page]);

  const pages = page ? [page, ...more] : more;
  const decisions = pages.flatMap((page) => page.decisions);
  const next = pages.at(-1)?.next;
  const readMore = async (): Promise<void> => {
    try {
      const following = await get<Page>("/v1/decisions", { ...wanted, limit: PAGE, after: next });
      setMore((more) => [...more, following]);
      setMoreProblem(undefined);
    } catch (error) {
      setMoreProblem(Problem.of(error));
    }
  };
  const isFiltered = Object.values(wanted).some(Boolean);

  return (
    <>
      <div class="title">
        <Heading>Decisions</Heading>
        <p class="summary" role="status">
          {isLoading ? "loading…" : `${count(decisions.length, "decision")}${next ? ", and more" : ""}`}
        </p>
        <div class="actions">
          <button type="button" onClick={again}>
            Read again
          </button>
        </div>
      </div>
      <DecisionFilters />
      {problem && <Trouble problem={problem} retry={again} />}
      {!page && !problem ? (
        <Loading what="decisions" />
      ) : decisions.length > 0 ? (
        <DecisionTable decisions={decisions} />
      ) : problem ? null : isFiltered ? (
        <Empty>No decision is like that. Change the filter, or take a longer time.</Empty>
      ) : (
        <Empty>
          Nothing was decided yet. <a href={to("start")}>Plan or start a VM</a>, and the decision about it is here.
        </Empty>
      )}
      {moreProblem && <Trouble problem={moreProblem} />}
      {next && (
        <div class="actions">
          <button type="button" onClick={() => void readMore()}>
            Show more
          </button>
        </div>
      )}
    </>
  );
}

function useSettled(text: string): string {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}
