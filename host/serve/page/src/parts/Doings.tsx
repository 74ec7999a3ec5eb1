// The tasks under way, in a corner that every screen has.

import { doings, forget, giveUp, type Doing } from "../doings";
import { route, to } from "../route";
import { seen } from "../text";
import { Chip } from "./Chip";
import { Trouble } from "./Trouble";

export function Doings() {
  return (
    <div class="doings" role="log" aria-label="What is under way">
      {doings.value.map((doing) => (
        <One key={doing.key} doing={doing} />
      ))}
    </div>
  );
}

function One({ doing: { key, title, state, operation, problem } }: { doing: Doing }) {
  return (
    <div class="doing">
      <div class="doing-head">
        {state !== "running" && <Chip word={state === "done" ? "succeeded" : "failed"} />}
        <b>{seen(title)}</b>
        {state === "running" && operation ? (
          <button type="button" class="plain" onClick={() => void giveUp(operation)}>
            Give up
          </button>
        ) : state === "failed" ? (
          <button type="button" class="plain" aria-label={`Close: ${seen(title)}`} onClick={() => forget(key)}>
            Close
          </button>
        ) : null}
      </div>
      {state === "running" && <progress aria-label={`${seen(title)} goes on`} />}
      {state === "running" && operation?.step && <p class="soft">{seen(operation.step)}</p>}
      {operation?.vm && route.value.path[1] !== operation.vm && (
        <p>
          <a href={to("vms", operation.vm)}>Show the VM</a>
        </p>
      )}
      {problem && <Trouble problem={problem} />}
    </div>
  );
}
