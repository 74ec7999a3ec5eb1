// The VMs, their tenants and their states.

import { useEffect, useMemo, useState } from "preact/hooks";

import { Heading } from "../parts/Heading";
import { Empty, Loading, Trouble } from "../parts/Trouble";
import { sorted, sortedBy, VmTable } from "../parts/VmTable";
import { filterBy, route, to } from "../route";
import { isOperator } from "../session";
import { isOver, STATES } from "../shapes";
import { count, seen } from "../text";
import { listed, load, loading, problem, withEnded, type Row } from "../vms";

export function VmList() {
  const { query } = route.value;
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setNow(Date.now()), 5000);
    return () => clearInterval(timer);
  }, []);
  useEffect(() => {
    withEnded.value = query.get("ended") === "yes";
  }, [query.get("ended")]);

  const rows = listed.value;
  const by = sortedBy();
  const [words, tenant, state] = [query.get("q") ?? "", query.get("tenant") ?? "", query.get("state") ?? ""];
  const shown = useMemo(() => sorted(filtered(rows, words, tenant, state), by), [rows, words, tenant, state, by]);
  const tenants = useMemo(() => [...new Set(rows.map((row) => row.vm.tenant))].sort(), [rows]);
  const isFiltered = Boolean(words || tenant || state);

  return (
    <>
      <div class="title">
        <Heading>VMs</Heading>
        <Summary rows={rows} />
        <a class="button primary" href={to("start")}>
          Start a VM
        </a>
      </div>
      <form class="filters" role="search" aria-label="VMs" onSubmit={(event) => event.preventDefault()}>
        <label>
          <span>Filter</span>
          <input
            type="search"
            data-filter
            value={words}
            placeholder="task, tenant, port, image…"
            onInput={(event) => filterBy("q", event.currentTarget.value)}
          />
        </label>
        {isOperator.value && (
          <label>
            <span>Tenant</span>
            <select value={tenant} onChange={(event) => filterBy("tenant", event.currentTarget.value)}>
              <option value="">all</option>
              {tenants.map((name) => (
                <option value={name}>{seen(name)}</option>
              ))}
            </select>
          </label>
        )}
        <label>
          <span>State</span>
          <select value={state} onChange={(event) => filterBy("state", event.currentTarget.value)}>
            <option value="">all</option>
            {STATES.filter((state) => withEnded.value || !isOver(state)).map((name) => (
              <option value={name}>{name}</option>
            ))}
          </select>
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={withEnded.value}
            onChange={(event) => filterBy("ended", event.currentTarget.checked ? "yes" : "")}
          />
          <span>Ended ones too</span>
        </label>
        <output class="found" aria-live="polite">
          {isFiltered ? `${shown.length} of ${count(rows.length, "VM")}` : ""}
        </output>
      </form>
      {problem.value && <Trouble problem={problem.value} retry={() => void load()} />}
      {loading.value ? (
        <Loading what="VMs" />
      ) : shown.length > 0 ? (
        <VmTable rows={shown} by={by} now={now} />
      ) : problem.value ? null : isFiltered ? (
        <Empty>No VM is like that. Change the filter{withEnded.value ? "" : ", or look at ended ones too"}.</Empty>
      ) : (
        <Empty>
          No VM {withEnded.value ? "is kept" : "runs"}. <a href={to("start")}>Start one</a>
          {withEnded.value ? "" : ", or look at ended ones"}.
        </Empty>
      )}
    </>
  );
}

function filtered(rows: Row[], words: string, tenant: string, state: string): Row[] {
  const all = words.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(
    (row) =>
      (!tenant || row.vm.tenant === tenant) &&
      (!state || row.vm.state === state) &&
      all.every((word) => row.words.includes(word)),
  );
}

function Summary({ rows }: { rows: Row[] }) {
  const counts = new Map<string, number>();
  for (const { vm } of rows) counts.set(vm.state, (counts.get(vm.state) ?? 0) + 1);
  const parts = STATES.filter((state) => counts.has(state)).map((state) => `${counts.get(state)} ${state}`);
  return <p class="summary">{parts.join(" · ")}</p>;
}
