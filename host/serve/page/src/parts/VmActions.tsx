// What can be done with a VM in its state.

import { ask, part, post } from "../api";
import { act, operate } from "../doings";
import { go, to } from "../route";
import { isOver, type Operation, type VmDetails } from "../shapes";
import { seen } from "../text";
import { question } from "./Modal";

const GRACE_MOST_S = 86_400;

export function VmActions({ vm, changed }: { vm: VmDetails; changed: () => void }) {
  const { id, state } = vm;
  const name = seen(vm.task);
  const place = `/v1/vms/${part(id)}`;

  const stop = async (): Promise<void> => {
    const answer = await question({
      title: `Stop ${name}?`,
      text: "The guest's power button is pressed. Where the guest does not power off within the grace period, QEMU quits.",
      action: "Stop",
      isDanger: true,
      number: { label: "Grace period in seconds; empty: as the job says", min: 0, max: GRACE_MOST_S, isOptional: true },
    });
    if (!answer) return;
    await operate(`Stop ${name}`, () => post<Operation>(`${place}/stop`, { query: { grace_s: answer.number } }));
    changed();
  };
  const kill = async (): Promise<void> => {
    const answer = await question({
      title: `Kill ${name}?`,
      text: "QEMU is killed at once, as if the machine lost its power. What the guest has not written to its disks is lost.",
      action: "Kill",
      isDanger: true,
    });
    if (!answer) return;
    await operate(`Kill ${name}`, () => post<Operation>(`${place}/kill`));
    changed();
  };
  const restart = async (): Promise<void> => {
    const answer = await question({
      title: `Restart ${name}?`,
      text: "The VM is ended and started again, with the disks that it has.",
      action: "Restart",
      isDanger: true,
    });
    if (!answer) return;
    await operate(`Restart ${name}`, () => post<Operation>(`${place}/restart`));
    changed();
  };
  const pauseOrResume = async (what: "pause" | "resume"): Promise<void> => {
    await act(`${what === "pause" ? "Pause" : "Resume"} ${name}`, () => post(`${place}/${what}`));
    changed();
  };
  const remove = async (): Promise<void> => {
    const answer = await question({
      title: `Remove ${name}?`,
      text: "What is kept of the ended VM goes: its console's log, its record, and disks of its own. Volumes and decisions stay.",
      action: "Remove",
      isDanger: true,
    });
    if (!answer) return;
    const done = await act(`Remove ${name}`, async () => (await ask(place, { method: "DELETE" })).ok);
    if (done) go(to("vms"));
  };

  const isPaused = state === "paused";
  return (
    <div class="actions" role="group" aria-label="What can be done">
      <a class="button" href={to("vms", id, "console")}>
        Console
      </a>
      {isOver(state) ? (
        <button type="button" class="danger" onClick={() => void remove()}>
          Remove…
        </button>
      ) : (
        <>
          <button
            type="button"
            disabled={state !== "running" && !isPaused}
            onClick={() => void pauseOrResume(isPaused ? "resume" : "pause")}
          >
            {isPaused ? "Resume" : "Pause"}
          </button>
          <button type="button" onClick={() => void restart()}>
            Restart…
          </button>
          <button type="button" class="danger" onClick={() => void stop()}>
            Stop…
          </button>
          <button type="button" class="danger" onClick={() => void kill()}>
            Kill…
          </button>
        </>
      )}
    </div>
  );
}
