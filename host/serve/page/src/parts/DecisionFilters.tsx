// Which decisions are looked for.

import { get } from "../api";
import { useLoaded } from "../loaded";
import { filterBy, route } from "../route";
import { isOperator } from "../session";
import { OUTCOMES, type Policy } from "../shapes";
import { seen } from "../text";
import { LAST_NIGHT, local, RANGES, type Range } from "../times";

export function DecisionFilters() {
  const { query } = route.value;
  const policies = useLoaded(
    (signal) => (isOperator.value ? get<{ policies: Policy[] }>("/v1/policies", {}, signal) : Promise.resolve({ policies: [] })),
    [],
  );
  const field = (name: string) => ({
    value: query.get(name) ?? "",
    onInput: (event: InputEvent & { currentTarget: HTMLInputElement | HTMLSelectElement }) =>
      filterBy(name, event.currentTarget.value),
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
          {OUTCOMES.map((name) => (
            <option value={name}>{name.replaceAll("-", " ")}</option>
          ))}
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
            {(policies.value?.policies ?? []).map(({ name }) => (
              <option value={name}>{seen(name)}</option>
            ))}
          </select>
        </label>
      )}
      <label>
        <span>Since</span>
        <input type="datetime-local" {...field("since")} />
      </label>
      <label>
        <span>Until</span>
        <input type="datetime-local" {...field("until")} />
      </label>
      <div class="ranges" role="group" aria-label="Times">
        <button
          type="button"
          onClick={() => {
            take(LAST_NIGHT);
            filterBy("outcome", "denied");
          }}
        >
          Denied last night
        </button>
        {RANGES.map((range) => (
          <button type="button" onClick={() => take(range)}>
            {range.name}
          </button>
        ))}
        {isOpen && (
          <button
            type="button"
            onClick={() => {
              filterBy("since", "");
              filterBy("until", "");
            }}
          >
            Any time
          </button>
        )}
      </div>
    </form>
  );
}
