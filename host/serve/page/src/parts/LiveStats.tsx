// What a VM uses now, asked for every two seconds while it is looked at.

import { useEffect, useState } from "preact/hooks";

import { get, part, Problem } from "../api";
import { useEvery } from "../loaded";
import type { Stats, VmDetails } from "../shapes";
import { bytes, count, seen } from "../text";
import { Gauge } from "./Bar";
import { Loading, Trouble } from "./Trouble";

const EVERY_MS = 2000;
// Two minutes of samples.
const KEPT = 60;

interface Sample {
  at: number;
  stats: Stats;
}

export function LiveStats({ vm }: { vm: VmDetails }) {
  const [samples, setSamples] = useState<Sample[]>([]);
  const [problem, setProblem] = useState<Problem | undefined>();
  const runs = vm.state === "running" || vm.state === "paused" || vm.state === "stopping";
  const read = async (): Promise<void> => {
    try {
      const stats = await get<Stats>(`/v1/vms/${part(vm.id)}/stats`);
      setSamples((samples) => [...samples.slice(1 - KEPT), { at: performance.now(), stats }]);
      setProblem(undefined);
    } catch (error) {
      setProblem(Problem.of(error));
    }
  };
  useEffect(() => {
    if (runs) void read();
  }, [vm.id, runs]);
  useEvery(EVERY_MS, () => void read(), runs);

  if (!runs) return <p class="soft">It does not run yet.</p>;
  const latest = samples.at(-1);
  if (!latest) return problem ? <Trouble problem={problem} /> : <Loading what="what it uses" />;
  const { stats } = latest;
  const before = samples.at(-2);
  const cpus = vm.takes?.resources.cpus ?? 1;
  const memory = vm.takes?.cage?.cgroup?.memory_bytes;
  const cgroup = stats.cgroup?.memory_bytes;
  const shares = samples.slice(1).map((sample, index) => share(samples[index], sample));
  const now = shares.at(-1);
  return (
    <>
      <div class="gauges">
        <div class="gauge">
          <Gauge name="CPUs" used={Math.min(cpus, now ?? 0)} limit={cpus} shown={(used) => used.toFixed(used === cpus ? 0 : 2)} />
          <Spark values={shares} most={cpus} />
          {shares.length > 1 && <p class="gauge-words">the last two minutes</p>}
        </div>
        {cgroup !== undefined && cgroup !== null ? (
          <Gauge name="Memory of its cgroup" used={cgroup} limit={memory} shown={bytes} />
        ) : (
          stats.resident_bytes !== null && (
            <Gauge name="Memory of QEMU" used={stats.resident_bytes} limit={memory} shown={bytes} />
          )
        )}
        {vm.disk?.used_bytes !== undefined && (
          <Gauge name="Root disk, as written" used={vm.disk.used_bytes} limit={vm.disk.max_bytes} shown={bytes} />
        )}
      </div>
      <dl class="facts">
        {stats.disks.map((disk, index) => (
          <>
            <dt title={seen(disk.device)}>Disk {index + 1}</dt>
            <dd>
              {bytes(disk.read_bytes)} read, {bytes(disk.written_bytes)} written
              {before && <span class="soft"> ({rate(before, latest, disk.device)})</span>}
              {disk.failed > 0 && <span class="wrong"> {count(disk.failed, "failure")}</span>}
            </dd>
          </>
        ))}
        {stats.connections !== null && (
          <>
            <dt>Network</dt>
            <dd>{count(stats.connections, "open connection")}</dd>
          </>
        )}
        <dt>QEMU</dt>
        <dd>
          {stats.threads !== null && count(stats.threads, "thread")}
          {stats.resident_bytes !== null && `, ${bytes(stats.resident_bytes)} resident`}
        </dd>
        {(stats.cgroup?.oom_kills ?? 0) > 0 && (
          <>
            <dt>Killed</dt>
            <dd class="wrong">{stats.cgroup?.oom_kills} times by the kernel, for its memory</dd>
          </>
        )}
      </dl>
      {problem && <Trouble problem={problem} />}
    </>
  );
}

// The CPUs that were busy between two samples.
function share(from: Sample | undefined, to: Sample): number {
  const [before, after] = [from?.stats.cpu_ms, to.stats.cpu_ms];
  if (!from || before === null || before === undefined || after === null) return 0;
  return Math.max(0, (after - before) / (to.at - from.at));
}

function rate(from: Sample, to: Sample, device: string): string {
  const find = (sample: Sample) => sample.stats.disks.find((disk) => disk.device === device);
  const [before, after] = [find(from), find(to)];
  if (!before || !after) return "";
  const seconds = (to.at - from.at) / 1000;
  const per = (now: number, was: number): string => `${bytes(Math.max(0, (now - was) / seconds))}/s`;
  return `${per(after.read_bytes, before.read_bytes)} read, ${per(after.written_bytes, before.written_bytes)} written`;
}

function Spark({ values, most }: { values: number[]; most: number }) {
  if (values.length < 2) return null;
  const points = values.map((value, index) => `${(KEPT - values.length + index) / (KEPT - 1)},${1 - Math.min(1, value / most)}`);
  return (
    <svg class="spark" viewBox="0 -0.05 1 1.1" preserveAspectRatio="none" aria-hidden="true">
      <line x1="0" x2="1" y1="1" y2="1" />
      <polyline points={points.join(" ")} />
    </svg>
  );
}
