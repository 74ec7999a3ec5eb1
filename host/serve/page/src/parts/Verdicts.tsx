// Why a decision is as it is: each policy's verdict, what it changed, its messages and hints.

import type { Change, Decision, Json, PolicyRecord, Violation } from "../shapes";
import { bytes, count, micros, seen, seenLines, short } from "../text";
import { Chip } from "./Chip";
import { Hint } from "./Trouble";

export function Verdicts({ decision }: { decision: Decision }) {
  const { policies, host, conflicts = [], launch } = decision;
  const warnings = launch.warnings ?? [];
  return (
    <div class="verdicts">
      {warnings.map((warning) => (
        <p class="note">{seenLines(warning)}</p>
      ))}
      {policies.length === 0 && <p class="soft">No policy was asked: the configuration names none for this tenant.</p>}
      {policies.map((policy) => (
        <Verdict policy={policy} />
      ))}
      <section class={`verdict ${tone(host.answer)}`}>
        <div class="verdict-head">
          <b>The host's own rules</b>
          <Chip word={host.answer} />
        </div>
        <Violations list={host.violations} />
      </section>
      {conflicts.length > 0 && (
        <section>
          <h3>Written by several policies; the last one's word held</h3>
          <ul class="causes">
            {conflicts.map(({ field, writers }) => (
              <li>
                <code>{seen(field)}</code>: {writers.map(({ policy }) => seen(policy)).join(", then ")}
              </li>
            ))}
          </ul>
        </section>
      )}
    </div>
  );
}

function tone(answer: PolicyRecord["answer"]): string {
  return answer === "allowed" ? "good" : answer === "not-asked" ? "idle" : "bad";
}

function Verdict({ policy }: { policy: PolicyRecord }) {
  const {
    name,
    layer,
    mode,
    version,
    sha256,
    answer,
    changes,
    violations,
    fault,
    contract_breaches = [],
    log,
    log_dropped,
    cost,
  } = policy;
  const isMonitor = mode === "monitor";
  return (
    <section class={`verdict ${isMonitor ? "idle" : tone(answer)}`}>
      <div class="verdict-head">
        <b>{seen(name)}</b>
        <Chip word={answer} />
        {isMonitor && <span class="tag">monitor: changes nothing</span>}
        {layer === "tenant" && <span class="tag">the tenant's</span>}
        <span class="soft">
          {seen(version)} · <code title={sha256}>{short(sha256)}</code> · {micros(cost.micros)} · {bytes(cost.peak_memory)}
        </span>
      </div>
      {fault && <p class="wrong">{seenLines(fault)}</p>}
      <Violations list={violations} />
      {changes.length > 0 && (
        <div>
          <h3>{isMonitor ? "Would have changed" : "Changed"}</h3>
          <Changes list={changes} />
        </div>
      )}
      {contract_breaches.map((breach) => (
        <p class="note">{seenLines(breach)}</p>
      ))}
      {log.length > 0 && (
        <details>
          <summary>
            {count(log.length, "line")} of its log{log_dropped > 0 && `, ${log_dropped} not kept`}
          </summary>
          <pre>{log.map(({ level, message }) => `${level}: ${seenLines(message)}`).join("\n")}</pre>
        </details>
      )}
    </section>
  );
}

export function Violations({ list }: { list: Violation[] }) {
  return (
    <>
      {list.map(({ code, field, message, hint }) => (
        <div class="violation">
          <p>{seenLines(message)}</p>
          <p class="soft">
            <code>{seen(code)}</code>
            {field && (
              <>
                {" "}
                at <code>{seen(field)}</code>
              </>
            )}
          </p>
          {hint && <Hint>{seenLines(hint)}</Hint>}
        </div>
      ))}
    </>
  );
}

export function Changes({ list }: { list: Change[] }) {
  return (
    <ul class="changes">
      {list.map(({ field, from, to }) => (
        <li>
          <code>{seen(field)}</code> <span class="from mono">{value(from)}</span> → <span class="to mono">{value(to)}</span>
        </li>
      ))}
    </ul>
  );
}

export function value(of: Json | undefined): string {
  if (of === null || of === undefined) return "none";
  return seen(typeof of === "string" ? of : JSON.stringify(of));
}
