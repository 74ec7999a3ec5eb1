// A start by form or by text, with the same checks as everywhere: understood, planned, decided, started.

import { useEffect, useRef, useState } from "preact/hooks";

import { all, post, Problem, type Ask } from "../api";
import { operate } from "../doings";
import { EMPTY, read, written, type Job } from "../job";
import { useLoaded } from "../loaded";
import { Heading } from "../parts/Heading";
import { hasField, JobForm } from "../parts/JobForm";
import { JobText } from "../parts/JobText";
import { Planned, Understood, type PlanAnswer } from "../parts/Planned";
import { Trouble } from "../parts/Trouble";
import { Verdicts } from "../parts/Verdicts";
import { go, route, to } from "../route";
import { isOperator } from "../session";
import type { Image, JobProblem, Operation, Task } from "../shapes";

type Outcome =
  | { kind: "problem"; what: string; problem: Problem }
  | { kind: "understood"; task: Task }
  | { kind: "planned"; answer: PlanAnswer };

export function Start() {
  const [job, setJob] = useState<Job>(EMPTY);
  // If there is a text, the text is edited and sent.
  const [text, setText] = useState<string | undefined>();
  const [tenant, setTenant] = useState("");
  const [why, setWhy] = useState("");
  const [outcome, setOutcome] = useState<Outcome | undefined>();
  const [underWay, setUnderWay] = useState("");
  const [key, setKey] = useState(newKey);
  const images = useLoaded((signal) => all<Image>("/v1/images", "images", {}, signal), []);

  // A changed job is another request, which needs another key.
  const changed = (): void => {
    setKey(newKey());
    setWhy("");
  };
  const toText = (): void => setText((text) => text ?? written(job));
  const toForm = (): void => {
    if (text === undefined) return;
    const told = read(text);
    if ("why" in told) {
      setWhy(told.why);
      return;
    }
    setJob(told.job);
    setText(undefined);
    setWhy("");
  };

  const how = (): Ask => ({ body: text ?? written(job), query: { tenant } });
  const doing = async (what: string, work: () => Promise<Outcome | undefined>): Promise<void> => {
    setUnderWay(what);
    setOutcome(undefined);
    try {
      setOutcome(await work());
    } catch (error) {
      setOutcome({ kind: "problem", what, problem: Problem.of(error) });
    } finally {
      setUnderWay("");
    }
  };
  const check = (): Promise<void> =>
    doing("Check", async () => {
      const answer = await post<{ task: Task }>("/v1/jobs/validate", how());
      return answer && { kind: "understood", task: answer.task };
    });
  const plan = (): Promise<void> =>
    doing("Plan", async () => {
      const answer = await post<PlanAnswer>("/v1/jobs/plan", how());
      return answer && { kind: "planned", answer };
    });
  const start = (): Promise<void> =>
    doing("Start", async () => {
      let refused: Problem | undefined;
      const name = typeof job["name"] === "string" && text === undefined ? job["name"] : "a VM";
      const begin = () => post<Operation>("/v1/vms", { ...how(), headers: { "Idempotency-Key": key } });
      const ended = await operate(`Start ${name}`, begin, (problem) => (refused = problem));
      if (refused) {
        // A request whose answer was lost is repeated with its key, so that no second VM is started.
        if (!refused.isLost) setKey(newKey());
        return { kind: "problem", what: "Start", problem: refused };
      }
      if (ended?.vm && route.value.path[0] === "start") go(to("vms", ended.vm));
      return undefined;
    });

  const problems: JobProblem[] = outcome?.kind === "problem" ? (outcome.problem.details.problems ?? []) : [];
  const isText = text !== undefined;
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (problems.length > 0) form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [outcome]);
  const whose = isOperator.value && (
    <div class="field">
      <label for="job-tenant">Tenant</label>
      <input
        id="job-tenant"
        placeholder="default"
        value={tenant}
        onInput={(event) => {
          setTenant(event.currentTarget.value);
          changed();
        }}
      />
    </div>
  );
  return (
    <>
      <div class="title">
        <Heading>Start a VM</Heading>
        <div class="segments" role="group" aria-label="How the job is written">
          <button type="button" aria-pressed={!isText} onClick={toForm}>
            Form
          </button>
          <button type="button" aria-pressed={isText} onClick={toText}>
            Text
          </button>
        </div>
      </div>
      {why && (
        <p class="note" role="alert">
          {why}
        </p>
      )}
      <form
        class="panel"
        noValidate
        ref={form}
        onSubmit={(event) => {
          event.preventDefault();
          void start();
        }}
      >
        {isText ? (
          <>
            {whose && <div class="fields">{whose}</div>}
            <JobText
              text={text}
              problems={problems}
              change={(text) => {
                setText(text);
                changed();
              }}
            />
          </>
        ) : (
          <JobForm
            job={job}
            problems={problems}
            images={images.value ?? []}
            change={(job) => {
              setJob(job);
              changed();
            }}
          >
            {whose}
          </JobForm>
        )}
        <div class="actions">
          <button type="button" disabled={Boolean(underWay)} onClick={() => void check()}>
            Check
          </button>
          <button type="button" disabled={Boolean(underWay)} onClick={() => void plan()}>
            Plan
          </button>
          <button type="submit" class="primary" disabled={Boolean(underWay)}>
            Start
          </button>
          <span class="soft" role="status">
            {underWay && `${underWay} goes on…`}
          </span>
        </div>
        <p class="soft">
          Check says what the job is understood as. Plan asks the policies and shows what would be run, and starts nothing.
        </p>
      </form>
      <div aria-live="polite" class="lines">
        {outcome?.kind === "problem" && <Refused what={outcome.what} problem={outcome.problem} isText={isText} />}
        {outcome?.kind === "understood" && <Understood task={outcome.task} />}
        {outcome?.kind === "planned" && <Planned answer={outcome.answer} />}
      </div>
    </>
  );
}

function Refused({ what, problem, isText }: { what: string; problem: Problem; isText: boolean }) {
  const { problems = [], decision } = problem.details;
  // Problems that stand under their fields are not shown twice.
  const rest = problems.filter(({ pointer }) => !isText && !hasField(pointer));
  const shown = new Problem({ ...problem.details, problems: rest });
  return (
    <section class="panel">
      <h2>{what}: not done</h2>
      <Trouble problem={shown} />
      {problems.length > rest.length && (
        <p class="soft">Each problem stands {isText ? "under the text, with its line" : "under its field"}.</p>
      )}
      {decision && <Verdicts decision={decision} />}
    </section>
  );
}

// randomUUID needs a secure context, which a tunnel to a socket may not be.
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
