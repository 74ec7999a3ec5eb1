// What a job is understood as, and what it would be run as.

import type { Decision, Json, Task } from "../shapes";
import { seen, short } from "../text";
import { Verdicts } from "./Verdicts";
import { Raw } from "./VmFacts";

export interface PlanAnswer {
  decision: Decision | null;
  plan: {
    image_stored: boolean;
    image_sha256?: string;
    image_format: Json;
    program: string;
    argv: string[];
    cage: Json;
  };
}

export function Understood({ task }: { task: Task }) {
  const { resources } = task;
  return (
    <section class="panel">
      <h2>Check: the job is understood</h2>
      <dl class="facts">
        <dt>Task</dt>
        <dd>
          {seen(task.name)} of job {seen(task.job)}, tenant {seen(task.tenant)}
        </dd>
        <dt>Image</dt>
        <dd>{seen(task.image.source)}</dd>
        {resources && (
          <>
            <dt>Asks for</dt>
            <dd>
              {resources.cpus} CPUs, {resources.memory_mib} MiB
            </dd>
          </>
        )}
      </dl>
      <Raw name="All of it" of={task} />
    </section>
  );
}

export function Planned({ answer: { decision, plan } }: { answer: PlanAnswer }) {
  return (
    <section class="panel">
      <h2>Plan: it may run</h2>
      {decision && <Verdicts decision={decision} />}
      <dl class="facts">
        <dt>Image</dt>
        <dd>
          {plan.image_stored ? "stored here" : "not stored yet; a start fetches it"}, {seen(String(plan.image_format))}
          {plan.image_sha256 && (
            <>
              , <code title={plan.image_sha256}>{short(plan.image_sha256)}</code>
            </>
          )}
        </dd>
        <dt>Program</dt>
        <dd>
          <code>{seen(plan.program)}</code>
        </dd>
      </dl>
      <h3>Arguments</h3>
      <pre class="argv" role="region" tabIndex={0} aria-label="Arguments">
        {lines(plan.argv)}
      </pre>
      <Raw name="The cage of QEMU" of={plan.cage} />
    </section>
  );
}

// An option and its value in one line.
function lines(argv: string[]): string {
  return argv.reduce(
    (text, word) => (word.startsWith("-") || text === "" ? `${text}${text && "\n"}${seen(word)}` : `${text} ${seen(word)}`),
    "",
  );
}
