// The policies in use, what another one would have changed, and the configuration that names them.

import { useState } from "preact/hooks";

import { get, post, Problem } from "../api";
import { act } from "../doings";
import { useLoaded } from "../loaded";
import { Heading } from "../parts/Heading";
import { question } from "../parts/Modal";
import { Plain, type Column } from "../parts/Plain";
import { ReplayTable } from "../parts/ReplayTable";
import { Empty, Loading, Trouble } from "../parts/Trouble";
import { to } from "../route";
import type { Configuration, Policy, Replay } from "../shapes";
import { count, micros, seen, short, time } from "../text";

const COLUMNS: Column<Policy>[] = [
  {
    head: "Policy",
    cell: ({ name, version }) => (
      <>
        <a href={`${to("decisions")}?policy=${encodeURIComponent(name)}`}>{seen(name)}</a>
        {version && <span class="soft"> {seen(version)}</span>}
      </>
    ),
  },
  { head: "Mode", cell: ({ mode }) => (mode === "monitor" ? <span class="tag warn">monitor: changes nothing</span> : mode) },
  { head: "SHA-256", cell: ({ sha256 }) => <code title={sha256}>{short(sha256)}</code> },
  { head: "Asked", kind: "number", cell: ({ evaluations }) => evaluations },
  { head: "Refused", kind: "number", cell: ({ refusals }) => refusals },
  {
    head: "Mean cost",
    kind: "number",
    cell: ({ mean_us }) => (mean_us === null || mean_us === undefined ? "–" : micros(mean_us)),
  },
];

export function Policies() {
  const { value, problem, again } = useLoaded((signal) => get<{ policies: Policy[] }>("/v1/policies", {}, signal), []);
  const policies = value?.policies;
  return (
    <>
      <div class="title">
        <Heading>Policies</Heading>
        <p class="summary">counted since the service began</p>
        <div class="actions">
          <button type="button" onClick={again}>
            Read again
          </button>
        </div>
      </div>
      {problem && <Trouble problem={problem} retry={again} />}
      {policies === undefined ? (
        !problem && <Loading what="policies" />
      ) : policies.length > 0 ? (
        <Plain caption="Policies" columns={COLUMNS} items={policies} keyOf={({ name }) => name} />
      ) : (
        <Empty>
          No policy is configured, so that the host's own rules alone decide. Name one in <code>[host] chain</code> of the
          configuration, and reload it.
        </Empty>
      )}
      <Replaying policies={policies ?? []} />
      <Configured changed={again} />
    </>
  );
}

const MOST = 100_000;

function Replaying({ policies }: { policies: Policy[] }) {
  const [replay, setReplay] = useState<Replay | undefined>();
  const [problem, setProblem] = useState<Problem | undefined>();
  const [isUnderWay, setUnderWay] = useState(false);
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const policy = String(form.get("policy") ?? "");
    const file = form.get("component");
    const limit = Number(form.get("limit")) || undefined;
    setProblem(undefined);
    if (policy && !(file instanceof File && file.size > 0)) {
      setProblem(
        Problem.local(
          "no component was chosen",
          `choose the file that is to stand in for ${policy}, or take the policies of today`,
        ),
      );
      return;
    }
    setUnderWay(true);
    try {
      const body = policy && file instanceof File ? { body: file, headers: { "Content-Type": "application/wasm" } } : {};
      setReplay(await post<Replay>("/v1/replay", { query: { policy, limit }, ...body }));
    } catch (error) {
      setReplay(undefined);
      setProblem(Problem.of(error));
    } finally {
      setUnderWay(false);
    }
  };
  return (
    <section class="panel">
      <h2>Replay: what would have changed</h2>
      <p class="soft">
        Recorded decisions are made again, and nothing is started. A component stands in for one policy, or the policies of today
        are asked.
      </p>
      <form class="fields broad" onSubmit={(event) => void submit(event)}>
        <div class="field">
          <label for="replay-policy">In place of</label>
          <select id="replay-policy" name="policy">
            <option value="">none: today's policies</option>
            {policies.map(({ name }) => (
              <option value={name}>{seen(name)}</option>
            ))}
          </select>
        </div>
        <div class="field">
          <label for="replay-component">Component (.wasm)</label>
          <input id="replay-component" name="component" type="file" accept=".wasm,application/wasm" />
        </div>
        <div class="field">
          <label for="replay-limit">The latest decisions, at most</label>
          <input id="replay-limit" name="limit" type="number" min={1} max={MOST} defaultValue="1000" />
        </div>
        <div class="field actions-field">
          <button type="submit" class="primary" disabled={isUnderWay}>
            {isUnderWay ? "Replaying…" : "Replay"}
          </button>
        </div>
      </form>
      {problem && <Trouble problem={problem} />}
      {replay && <ReplayTable replay={replay} />}
    </section>
  );
}

function Configured({ changed }: { changed: () => void }) {
  const { value: now, problem, again } = useLoaded((signal) => get<Configuration>("/v1/configuration", {}, signal), []);
  const [tried, setTried] = useState<Replay | undefined>();
  const [refused, setRefused] = useState<Problem | undefined>();
  const doing = async (title: string, work: () => Promise<unknown>): Promise<void> => {
    setRefused(undefined);
    const done = await act(title, async () => ({ answer: await work() }), setRefused);
    if (!done) return;
    again();
    changed();
  };
  const tryIt = (): Promise<void> =>
    doing("Try the configuration", async () => setTried(await post<Replay>("/v1/configuration/try")));
  const reload = (): Promise<void> =>
    doing("Reload the configuration", async () => {
      await post<Configuration>("/v1/configuration/reload");
      setTried(undefined);
    });
  const stepBack = async (): Promise<void> => {
    const answer = await question({
      title: "Step back to the configuration before?",
      text: "It is in force at once, until the next reload. The file on disk stays as it is.",
      action: "Step back",
      isDanger: true,
    });
    if (answer) await doing("Step back", () => post<Configuration>("/v1/configuration/step-back"));
  };
  return (
    <section class="panel">
      <h2>Configuration</h2>
      {now ? (
        <p>
          Generation {now.generation}, in force since <time dateTime={now.since}>{time(now.since)}</time>.
        </p>
      ) : problem ? (
        <Trouble problem={problem} retry={again} />
      ) : (
        <Loading what="the configuration" />
      )}
      <div class="actions">
        <button type="button" onClick={() => void tryIt()}>
          Try what is on disk
        </button>
        <button type="button" class="primary" onClick={() => void reload()}>
          Reload
        </button>
        <button type="button" class="danger" disabled={!now?.can_step_back} onClick={() => void stepBack()}>
          Step back…
        </button>
      </div>
      <p class="soft">
        Try makes recorded decisions again as the configuration on disk would. Reload takes it over whole, or not at all.
      </p>
      {refused && <Trouble problem={refused} />}
      {tried && (
        <>
          <h3>What is on disk would change {count(tried.differ, "decision")}</h3>
          <ReplayTable replay={tried} />
        </>
      )}
    </section>
  );
}
