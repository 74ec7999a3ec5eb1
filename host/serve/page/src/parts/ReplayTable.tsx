// What recorded decisions would be by other policies.

import { useState } from "preact/hooks";

import type { Difference, Replay, Total, Why } from "../shapes";
import { count, seen, time } from "../text";
import { Chip } from "./Chip";
import { Plain, type Column } from "./Plain";
import { Empty } from "./Trouble";
import { Changes } from "./Verdicts";

const COLUMNS: Column<Difference>[] = [
  { head: "Time", cell: ({ time: at }) => <time dateTime={at}>{time(at)}</time> },
  { head: "Tenant", kind: "name", cell: ({ tenant }) => seen(tenant) },
  { head: "Task", kind: "name", cell: ({ task }) => seen(task) },
  { head: "Was", cell: ({ was }) => <Chip word={was} /> },
  { head: "Now", cell: ({ now }) => <Chip word={now} /> },
  {
    head: "What differs",
    kind: "long",
    cell: ({ launch, violations, no_longer, error }) => (
      <>
        {error && <p class="wrong">{seen(error)}</p>}
        {launch.length > 0 && <Changes list={launch} />}
        {violations.map((why) => (
          <p>
            <span class="tag bad">refuses now</span>
            {rule(why)}
          </p>
        ))}
        {no_longer.map((why) => (
          <p>
            <span class="tag good">no longer</span>
            {rule(why)}
          </p>
        ))}
      </>
    ),
  },
];

function rule({ policy, code, field }: Why) {
  return (
    <>
      {seen(policy)}: <code>{seen(code)}</code>
      {field && (
        <>
          {" "}
          at <code>{seen(field)}</code>
        </>
      )}
    </>
  );
}

export function ReplayTable({ replay }: { replay: Replay }) {
  const { records, identical, same, differ, masked, not_again, totals, differences } = replay;
  const [filter, setFilter] = useState("");
  const words = filter.toLowerCase();
  const shown = words ? differences.filter((one) => JSON.stringify(one).toLowerCase().includes(words)) : differences;
  return (
    <div class="lines" role="region" aria-label="What would change">
      <p>
        Of {count(records, "decision")}, <b>{differ} would differ</b>; {identical} would be the same to the bit, and {same} the
        same but for other words.
        {masked > 0 && ` Of ${masked}, something is masked, so that a policy may have been shown something else.`}
      </p>
      {differ > 0 && (
        <div class="gauges broad">
          <Totals head="By outcome" list={totals.outcomes} />
          <Totals head="By tenant" list={totals.tenants} />
          <Totals head="By rule" list={totals.rules} />
        </div>
      )}
      {differences.length > 0 ? (
        <>
          <div class="filters">
            <label>
              <span>Search in what differs</span>
              <input type="search" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
            </label>
            <output class="found">{words && `${shown.length} of ${differences.length}`}</output>
          </div>
          {shown.length > 0 ? (
            <Plain
              caption="Decisions that would differ"
              columns={COLUMNS}
              items={shown}
              keyOf={(one) => `${one.time} ${one.tenant} ${one.task}`}
            />
          ) : (
            <Empty>No difference is like that.</Empty>
          )}
        </>
      ) : (
        <Empty>
          {records === 0 ? "No decision is recorded yet, so that there is nothing to compare." : "Nothing would change."}
        </Empty>
      )}
      {not_again.length > 0 && (
        <details>
          <summary>{count(not_again.length, "decision")} could not be made again</summary>
          <ul class="causes">
            {not_again.map(({ tenant, task, reason }) => (
              <li>
                {seen(tenant)}/{seen(task)}: {seen(reason)}
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}

function Totals({ head, list }: { head: string; list: Total[] }) {
  const most = Math.max(1, ...list.map(({ decisions }) => decisions));
  return (
    <div class="gauge">
      <h3>{head}</h3>
      {list.map(({ what, decisions }) => (
        <div class="gauge">
          <div class="gauge-head">
            <span>{seen(what)}</span>
            <span class="gauge-words">{decisions}</span>
          </div>
          <div class="bar" aria-hidden="true">
            <span style={{ width: `${(decisions / most) * 100}%` }} />
          </div>
        </div>
      ))}
    </div>
  );
}
