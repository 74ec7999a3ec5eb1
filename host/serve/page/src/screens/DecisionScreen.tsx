// A decision, with all that was said on the way to it.

import { get, part } from "../api";
import { useLoaded } from "../loaded";
import { Heading } from "../parts/Heading";
import { Chip } from "../parts/Chip";
import { Loading, Trouble } from "../parts/Trouble";
import { Verdicts } from "../parts/Verdicts";
import { Raw } from "../parts/VmFacts";
import { route, to } from "../route";
import type { Recorded } from "../shapes";
import { seen, seenLines, time } from "../text";

export function DecisionScreen() {
  const id = route.value.path[1] ?? "";
  const { value: record, problem, again } = useLoaded((signal) => get<Recorded>(`/v1/decisions/${part(id)}`, {}, signal), [id]);
  if (!record) {
    return (
      <>
        <Heading>Decision</Heading>
        {problem ? <Trouble problem={problem} retry={again} /> : <Loading what="the decision" />}
      </>
    );
  }
  const { outcome, task, occasion, operation, not_launched, error, masked = [], decision } = record;
  return (
    <>
      <div class="title">
        <Heading>{seen(task.name)}</Heading>
        <Chip word={outcome} />
        <span class="soft">
          of {seen(task.tenant)}, <time dateTime={record.time}>{time(record.time)}</time>
        </span>
        <div class="actions">
          <a class="button" href={`${to("decisions")}?tenant=${encodeURIComponent(task.tenant)}`}>
            All of this tenant
          </a>
        </div>
      </div>
      {error && <p class="note">{seenLines(error)}</p>}
      {not_launched && (
        <p class="note">
          Allowed, and not launched by <b>{seen(not_launched.by)}</b>: {seenLines(not_launched.reason)}
        </p>
      )}
      <div class="panels">
        <div class="column">
          <section class="panel">
            <h2>Verdicts</h2>
            <Verdicts decision={decision} />
          </section>
        </div>
        <div class="column">
          <section class="panel">
            <h2>What it is about</h2>
            <dl class="facts">
              <dt>Id</dt>
              <dd>
                <code>{seen(record.id)}</code>
              </dd>
              <dt>Occasion</dt>
              <dd>{operation ? "an operation" : (occasion ?? "launch")}</dd>
              {operation && (
                <>
                  <dt>VM</dt>
                  <dd>
                    <a href={to("vms", operation.vm)}>{seen(operation.vm)}</a>
                  </dd>
                  <dt>Actor</dt>
                  <dd>
                    {seen(operation.actor.name)}, by {seen(operation.actor.door)}
                  </dd>
                </>
              )}
              <dt>Job</dt>
              <dd>{seen(task.job)}</dd>
              <dt>Image</dt>
              <dd>{seen(task.image.source)}</dd>
              {decision.place && (
                <>
                  <dt>Place</dt>
                  <dd>{seen(decision.place)}</dd>
                </>
              )}
              {masked.length > 0 && (
                <>
                  <dt>Masked</dt>
                  <dd>
                    {masked.map((path) => (
                      <div>
                        <code>{seen(path)}</code>
                      </div>
                    ))}
                  </dd>
                </>
              )}
            </dl>
            <Raw name="What was asked" of={task} />
            <Raw name="The launch as it stood at the end" of={decision.launch} />
            <Raw name="The whole record" of={record} />
          </section>
        </div>
      </div>
    </>
  );
}
