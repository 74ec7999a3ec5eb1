// Decisions in a table: what they are about, and why they ended so.

import { to } from "../route";
import type { Recorded } from "../shapes";
import { seen, time } from "../text";
import { Chip } from "./Chip";
import { Plain, type Column } from "./Plain";

export function DecisionTable({ decisions }: { decisions: Recorded[] }) {
  return <Plain caption="Decisions, the latest first" columns={COLUMNS} items={decisions} keyOf={({ id }) => id} />;
}

const COLUMNS: Column<Recorded>[] = [
  {
    head: "Time",
    kind: "nowrap",
    cell: ({ id, time: at }) => (
      <a href={to("decisions", id)}>
        <time dateTime={at}>{time(at)}</time>
      </a>
    ),
  },
  { head: "Outcome", cell: ({ outcome }) => <Chip word={outcome} /> },
  { head: "Tenant", kind: "name", cell: ({ task }) => seen(task.tenant) },
  { head: "Task", kind: "name", cell: ({ task }) => seen(task.name) },
  { head: "About", kind: "name", cell: about },
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
  const refusing = decision.policies.filter(
    ({ answer, mode }) => mode === "enforce" && (answer === "refused" || answer === "failed"),
  );
  const all = refusing.flatMap(({ name, violations, fault }) => [
    ...violations.map(({ message, code }) => ({ by: name, message, code })),
    ...(fault ? [{ by: name, message: fault, code: "" }] : []),
  ]);
  const more = [...all, ...decision.host.violations.map(({ message, code }) => ({ by: "host", message, code }))];
  const first = more[0];
  if (first) {
    return (
      <>
        <span class="tag bad">{seen(first.by)}</span>
        {seen(first.message)}
        {more.length > 1 && <span class="soft"> and {more.length - 1} more</span>}
      </>
    );
  }
  if (not_launched) return seen(not_launched.reason);
  const words = changed(decision);
  return error ? seen(error) : words && <span class="soft">{words}</span>;
}

// The changes that policies made to a task that was allowed.
function changed({ policies, launch }: Recorded["decision"]): string {
  const changes = policies.filter(({ mode, changes }) => mode === "enforce" && changes.length > 0);
  const words = changes.map(({ name, changes }) => `${name} changed ${changes.map(({ field }) => field).join(", ")}`);
  return [...(launch.warnings ?? []), ...words].map(seen).join("; ");
}
