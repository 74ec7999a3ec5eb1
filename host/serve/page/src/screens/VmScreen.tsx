// A VM: its facts, its state, and the reasons for both.

import { useEffect, useRef, useState } from "preact/hooks";

import { get, part, Problem } from "../api";
import { follow } from "../events";
import { useLoaded } from "../loaded";
import { Chip } from "../parts/Chip";
import { Guest } from "../parts/Guest";
import { Heading } from "../parts/Heading";
import { Life, Phases } from "../parts/Life";
import { LiveStats } from "../parts/LiveStats";
import { Loading, Trouble } from "../parts/Trouble";
import { Verdicts } from "../parts/Verdicts";
import { VmActions } from "../parts/VmActions";
import { VmFacts } from "../parts/VmFacts";
import { route, to } from "../route";
import { isOver, type VmDetails, type VmEvent } from "../shapes";
import { seen } from "../text";

// Events of one moment, as of a restart, ask for the VM once.
const GATHER_MS = 120;

export function VmScreen() {
  const id = route.value.path[1] ?? "";
  const { value: vm, problem, again } = useLoaded((signal) => get<VmDetails>(`/v1/vms/${part(id)}`, {}, signal), [id]);
  const [events, setEvents] = useState<VmEvent[]>([]);
  const [refused, setRefused] = useState<Problem | undefined>();
  const gathering = useRef<number | undefined>(undefined);
  const own = vm?.id ?? id;

  useEffect(() => {
    setEvents([]);
    setRefused(undefined);
    const stream = follow("/v1/events", {
      query: { vm: own },
      item: (data) => {
        setEvents((events) => [...events, data as VmEvent]);
        clearTimeout(gathering.current);
        gathering.current = setTimeout(again, GATHER_MS);
      },
      refused: setRefused,
    });
    return () => {
      stream.close();
      clearTimeout(gathering.current);
    };
  }, [own]);

  if (problem?.status === 404) {
    return (
      <>
        <Heading>No such VM</Heading>
        <Trouble problem={problem} />
        <p>
          It may have been removed. <a href={to("vms")}>Look at all VMs</a>, or{" "}
          <a href={`${to("decisions")}?q=${encodeURIComponent(id)}`}>at decisions about it</a>.
        </p>
      </>
    );
  }
  if (!vm) return problem ? <Trouble problem={problem} retry={again} /> : <Loading what="the VM" />;

  return (
    <>
      <div class="title">
        <Heading>{seen(vm.task)}</Heading>
        <Chip word={vm.state} />
        {vm.boot_failed_at && !isOver(vm.state) && <span class="tag bad">the firmware found no boot device</span>}
        {vm.ready_at && !isOver(vm.state) && <span class="tag good">ready</span>}
        <span class="soft">
          of <a href={`${to("vms")}?tenant=${encodeURIComponent(vm.tenant)}`}>{seen(vm.tenant)}</a>
        </span>
        <VmActions vm={vm} changed={again} />
      </div>
      {problem && <Trouble problem={problem} retry={again} />}
      {refused && <Trouble problem={refused} />}
      <div class="panels">
        <div class="column">
          {!isOver(vm.state) && (
            <section class="panel">
              <h2>Now</h2>
              <LiveStats key={vm.id} vm={vm} />
            </section>
          )}
          <section class="panel">
            <h2>Time line</h2>
            <Phases vm={vm} />
            <Life vm={vm} events={events} />
          </section>
        </div>
        <div class="column">
          <section class="panel">
            <header>
              <h2>Decision</h2>
              <div class="actions">
                <a href={`${to("decisions")}?tenant=${encodeURIComponent(vm.tenant)}&q=${encodeURIComponent(vm.task)}`}>
                  All of this task
                </a>
              </div>
            </header>
            {vm.decision ? <Verdicts decision={vm.decision} /> : <p class="soft">No decision is kept with this VM.</p>}
          </section>
          <section class="panel">
            <h2>Facts</h2>
            <VmFacts vm={vm} />
          </section>
          {!isOver(vm.state) && <Guest key={vm.id} vm={vm} />}
        </div>
      </div>
    </>
  );
}
