// A VM's life as a time line: its states, what else happened to it, and how long each took.

import { isState, type Decision, type PolicyRecord, type StateChange, type VmDetails, type VmEvent } from "../shapes";
import { count, duration, micros, seenLines, time } from "../text";
import { Chip } from "./Chip";

interface Moment {
  at: string;
  word: string;
  reason?: string | undefined;
  by?: string | undefined;
  isState: boolean;
}

// The record and the event of a state take its time one after the other, so that the two may differ.
const SAME_MS = 2000;

function moments(vm: VmDetails, events: VmEvent[]): Moment[] {
  const states: Moment[] = vm.changes.map(({ state, at, reason }) => ({ at, word: state, reason, isState: true }));
  const isKnown = (event: VmEvent): boolean =>
    isState(event.event) &&
    states.some(({ word, at }) => word === event.event && Math.abs(Date.parse(at) - Date.parse(event.at)) < SAME_MS);
  const others = events.filter((event) => !isKnown(event));
  const more: Moment[] = others.map(({ at, event, reason, by, request, actor }) => ({
    at,
    word: request ? `${request} ${event}` : event,
    reason,
    by: by ?? actor,
    isState: isState(event),
  }));
  return [...states, ...more].sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
}

export function Life({ vm, events }: { vm: VmDetails; events: VmEvent[] }) {
  const list = moments(vm, events);
  if (list.length === 0) return <p class="soft">Nothing is kept of its life.</p>;
  const states = list.filter((moment) => moment.isState);
  return (
    <ol class="life">
      {vm.decision && <Decided at={list[0]?.at} decision={vm.decision} />}
      {list.map((moment) => {
        const next = states[states.indexOf(moment) + 1];
        const took = moment.isState && next ? Date.parse(next.at) - Date.parse(moment.at) : undefined;
        return (
          <li>
            <time dateTime={moment.at} title={moment.at}>
              {time(moment.at)}
            </time>
            <span class={`dot ${tone(moment.word)}`} aria-hidden="true" />
            <div>
              <Chip word={moment.word} />
              {took !== undefined && <span class="took"> for {duration(took)}</span>}
              {moment.by && <span class="why"> by {seenLines(moment.by)}</span>}
              {moment.reason && <p class="why">{seenLines(moment.reason)}</p>}
            </div>
          </li>
        );
      })}
      {vm.ended && !list.at(-1)?.reason && (
        <li>
          <time dateTime={vm.ended.ended_at}>{time(vm.ended.ended_at)}</time>
          <span class="dot idle" aria-hidden="true" />
          <div>
            <b>Ended</b>: {endOf(vm)}
          </div>
        </li>
      )}
    </ol>
  );
}

// The decision came before all else; its verdicts in full stand beside the time line.
function Decided({ at, decision }: { at: string | undefined; decision: Decision }) {
  const { policies, host } = decision;
  return (
    <li>
      <time {...(at ? { dateTime: at } : {})}>{at ? time(at) : ""}</time>
      <span class="dot busy" aria-hidden="true" />
      <div>
        <b>decided</b> <span class="took">in {micros(policies.reduce((sum, { cost }) => sum + cost.micros, 0))}</span>
        {policies.map((policy) => (
          <p class="why">
            {seenLines(policy.name)}: {said(policy)}
          </p>
        ))}
        <p class="why">the host's own rules: {host.answer.replaceAll("-", " ")}</p>
      </div>
    </li>
  );
}

function said({ answer, mode, changes, violations }: PolicyRecord): string {
  const hints = violations.filter(({ hint }) => hint).length;
  const parts = [
    answer.replaceAll("-", " "),
    changes.length > 0
      ? `${mode === "monitor" ? "would have changed" : "changed"} ${changes.map(({ field }) => seenLines(field)).join(", ")}`
      : "",
    hints > 0 ? count(hints, "hint") : "",
    mode === "monitor" ? "only monitored" : "",
  ];
  return parts.filter(Boolean).join("; ");
}

const ENDS: Record<string, string> = {
  "shut-down": "the guest shut down",
  panicked: "the guest's kernel panicked",
  "out-of-memory": "the kernel killed QEMU, which took more memory than its cgroup may have",
  unseen: "QEMU is gone, and how it ended was not seen",
};

const STOPS: Record<string, string> = {
  powerdown: "stopped; the guest powered off",
  quit: "stopped; the guest did not power off in time, and QEMU quit",
  kill: "stopped; QEMU was killed",
  "between-starts": "stopped before the guest ran",
};

function endOf({ ended }: VmDetails): string {
  if (!ended) return "";
  const { reason, by, message } = ended;
  const words = reason === "stopped" ? STOPS[by ?? ""] : ENDS[reason];
  return seenLines(message ?? words ?? reason);
}

function tone(word: string): string {
  if (["running", "ready"].includes(word)) return "good";
  if (["failed", "lost", "refused"].includes(word)) return "bad";
  if (word === "paused") return "warn";
  return ["exited", "removed"].includes(word) ? "idle" : "busy";
}

// The launch: what came before the guest ran first, each part as wide as it took.
export function Phases({ vm }: { vm: VmDetails }) {
  const until = vm.changes.findIndex(({ state }) => state === "running");
  if (until < 1) return null;
  const phases = vm.changes.slice(0, until).map((change, index) => ({ change, ms: lasted(change, vm.changes[index + 1]) }));
  const all = phases.reduce((sum, { ms }) => sum + ms, 0);
  return (
    <div class="gauge">
      <div class="gauge-head">
        <b>Launch</b>
        <span class="gauge-words">{duration(all)}</span>
      </div>
      <div class="phases" aria-hidden="true">
        {phases.map(({ change, ms }) => (
          <span class={`phase-${change.state}`} style={{ flexGrow: Math.max(ms, 1) }} />
        ))}
      </div>
      <p class="phase-words">
        {phases.map(({ change, ms }) => (
          <span>
            <i class={`phase-${change.state}`} aria-hidden="true" />
            {change.state} {duration(ms)}
          </span>
        ))}
      </p>
    </div>
  );
}

function lasted(from: StateChange, to: StateChange | undefined): number {
  return to ? Math.max(0, Date.parse(to.at) - Date.parse(from.at)) : 0;
}
