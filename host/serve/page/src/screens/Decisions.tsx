// What was decided, for whom and why: searchable, the latest first.

import { useEffect, useState } from "preact/hooks";

import { get, Problem } from "../api";
import { useLoaded } from "../loaded";
import { Heading } from "../parts/Heading";
import { Chip } from "../parts/Chip";
import { Plain, type Column } from "../parts/Plain";
import { Empty, Loading, Trouble } from "../parts/Trouble";
import { filterBy, route, to } from "../route";
import { isOperator } from "../session";
import { OUTCOMES, type Policy, type Recorded } from "../shapes";
import { count, seen, time } from "../text";
import { LAST_NIGHT, RANGES, type Range } from "../times";

interface Page {
  decisions: Recorded[];
  next?: string;
}

const PAGE = 100;
// A letter typed asks for nothing until no other has come for so long.
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
  const { value: page, problem, isLoading, again } = useLoaded((signal) => get<Page>("/v1/decisions", { ...wanted, limit: PAGE }, signal), [asked]);
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
        <p class="summary" role="status">{isLoading ? "loading…" : `${count(decisions.length, "decision")}${next ? ", and more" : ""}`}</p>
        <div class="actions"><button type="button" onClick={again}>Read again</button></div>
      </div>
      <Filters />
      {problem && <Trouble problem={problem} retry={again} />}
      {!page && !problem ? (
        <Loading what="decisions" />
      ) : decisions.length > 0 ? (
        <Plain caption="Decisions, the latest first" columns={COLUMNS} items={decisions} keyOf={({ id }) => id} />
      ) : problem ? null : isFiltered ? (
        <Empty>No decision is like that. Change the filter, or take a longer time.</Empty>
      ) : (
        <Empty>Nothing was decided yet. <a href={to("start")}>Plan or start a VM</a>, and the decision about it is here.</Empty>
      )}
      {moreProblem && <Trouble problem={moreProblem} />}
      {next && <div class="actions"><button type="button" onClick={() => void readMore()}>Show more</button></div>}
    </>
  );
}

function Filters() {
  const { query } = route.value;
  const policies = useLoaded((signal) => (isOperator.value ? get<{ policies: Policy[] }>("/v1/policies", {}, signal) : Promise.resolve({ policies: [] })), []);
  const field = (name: string) => ({
    value: query.get(name) ?? "",
    onInput: (event: InputEvent & { currentTarget: HTMLInputElement | HTMLSelectElement }) => filterBy(name, event.currentTarget.value),
  });
  const take = (range: Range): void => {
    const { since, until } = range.of(new Date());
    filterBy("since", local(since));
    filterBy("until", until ? local(until) : "");
  };
  const isOpen = Boolean(query.get("since") || query.get("until"));
  return (
    <form class="filters" role="search" aria-label="Decisions" onSubmit={(event) => event.preventDefault()}>
      <label>
        <span>Search</span>
        <input type="search" data-filter placeholder="tenant, job, image, code, message…" {...field("q")} />
      </label>
      <label>
        <span>Outcome</span>
        <select {...field("outcome")}>
          <option value="">all</option>
          {OUTCOMES.map((name) => <option value={name}>{name.replaceAll("-", " ")}</option>)}
        </select>
      </label>
      {isOperator.value && (
        <label>
          <span>Tenant</span>
          <input size={12} placeholder="all" {...field("tenant")} />
        </label>
      )}
      {isOperator.value && (
        <label>
          <span>Policy</span>
          <select {...field("policy")}>
            <option value="">all</option>
            {(policies.value?.policies ?? []).map(({ name }) => <option value={name}>{seen(name)}</option>)}
          </select>
        </label>
      )}
      <label><span>Since</span><input type="datetime-local" {...field("since")} /></label>
      <label><span>Until</span><input type="datetime-local" {...field("until")} /></label>
      <div class="ranges" role="group" aria-label="Times">
        <button type="button" onClick={() => { take(LAST_NIGHT); filterBy("outcome", "denied"); }}>Denied last night</button>
        {RANGES.map((range) => <button type="button" onClick={() => take(range)}>{range.name}</button>)}
        {isOpen && <button type="button" onClick={() => { filterBy("since", ""); filterBy("until", ""); }}>Any time</button>}
      </div>
    </form>
  );
}

const COLUMNS: Column<Recorded>[] = [
  { head: "Time", kind: "nowrap", cell: ({ id, time: at }) => <a href={to("decisions", id)}><time dateTime={at}>{time(at)}</time></a> },
  { head: "Outcome", cell: ({ outcome }) => <Chip word={outcome} /> },
  { head: "Tenant", cell: ({ task }) => seen(task.tenant) },
  { head: "Task", cell: ({ task }) => seen(task.name) },
  { head: "About", cell: about },
  { head: "Why", kind: "long", cell: why },
];

function about({ occasion, operation }: Recorded): string {
  if (operation) {
    const name = typeof operation.operation === "string" ? operation.operation : Object.keys(operation.operation ?? {})[0];
    return `${name ?? "an operation"}, by ${seen(operation.actor.name)}`;
  }
  return occasion ?? "launch";
}

function why({ decision, error, not_launched }: Recorded) {
  const refusing = decision.policies.filter(({ answer, mode }) => mode === "enforce" && (answer === "refused" || answer === "failed"));
  const all = refusing.flatMap(({ name, violations, fault }) => [
    ...violations.map(({ message, code }) => ({ by: name, message, code })),
    ...(fault ? [{ by: name, message: fault, code: "" }] : []),
  ]);
  const more = [...all, ...decision.host.violations.map(({ message, code }) => ({ by: "host", message, code }))];
  const first = more[0];
  if (first) {
    return <><span class="tag bad">{seen(first.by)}</span>{seen(first.message)}{more.length > 1 && <span class="soft"> and {more.length - 1} more</span>}</>;
  }
  if (not_launched) return seen(not_launched.reason);
  const words = changed(decision);
  return error ? seen(error) : words && <span class="soft">{words}</span>;
}

// Of what was allowed: what policies made of it.
function changed({ policies, launch }: Recorded["decision"]): string {
  const changes = policies.filter(({ mode, changes }) => mode === "enforce" && changes.length > 0);
  const words = changes.map(({ name, changes }) => `${name} changed ${changes.map(({ field }) => field).join(", ")}`);
  return [...(launch.warnings ?? []), ...words].map(seen).join("; ");
}

const two = (number: number): string => String(number).padStart(2, "0");

// As an input of a local time has it.
function local(of: Date): string {
  return `${of.getFullYear()}-${two(of.getMonth() + 1)}-${two(of.getDate())}T${two(of.getHours())}:${two(of.getMinutes())}`;
}

function asTime(text: string): string {
  const when = new Date(text);
  return text && !Number.isNaN(when.getTime()) ? when.toISOString() : "";
}

function useSettled(text: string): string {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}
