// The facts of a VM.

import type { ComponentChildren } from "preact";

import type { VmDetails } from "../shapes";
import { bytes, count, mib, seen, seenLines, time } from "../text";

export function VmFacts({ vm }: { vm: VmDetails }) {
  const { asked, takes, disk, disks = [], restart } = vm;
  const image = takes?.image?.sha256 ?? asked?.image.sha256;
  const meta = Object.entries(asked?.meta ?? {});
  return (
    <>
      <dl class="facts">
        <Fact name="Id">
          <code>{seen(vm.id)}</code>
        </Fact>
        <Fact name="Job">{seen(vm.job)}</Fact>
        {takes && (
          <Fact name="Takes">
            {count(takes.resources.cpus, "CPU")}, {mib(takes.resources.memory_mib)} of memory
          </Fact>
        )}
        {takes && takes.forwards.length > 0 && (
          <Fact name="Ports">
            {takes.forwards.map(({ label, bind, host, guest, protocol }) => (
              <div>
                <code>
                  {seen(bind)}:{host}
                </code>{" "}
                → guest {guest}/{seen(protocol)} <span class="soft">{seen(label)}</span>
              </div>
            ))}
          </Fact>
        )}
        {asked && (
          <Fact name="Image">
            {[asked.image.source, ...(asked.image.mirrors ?? [])].map((place) => (
              <div>{seen(place)}</div>
            ))}
          </Fact>
        )}
        {image && (
          <Fact name="SHA-256">
            <code>{seen(image)}</code>
          </Fact>
        )}
        {disk && (
          <Fact name="Root disk">
            {bytes(disk.bytes)}
            {disk.used_bytes !== undefined && `, ${bytes(disk.used_bytes)} written of at most ${bytes(disk.max_bytes)}`}
          </Fact>
        )}
        {disks.map((disk) => (
          <Fact name={`Disk ${seen(disk.name)}`}>
            {bytes(disk.bytes)}
            {disk.read_only && ", read-only"}
            {disk.volume_path && ", a volume"}
            {disk.image && ", from an image"}
            {disk.used_bytes !== undefined && `, takes ${bytes(disk.used_bytes)}`}
          </Fact>
        ))}
        {vm.started_at && (
          <Fact name="QEMU since">
            {time(vm.started_at)}
            {vm.qemu && <span class="soft"> (process {vm.qemu.pid})</span>}
          </Fact>
        )}
        {vm.restarts > 0 && <Fact name="Restarts">{vm.restarts} in a row</Fact>}
        {vm.supervisor_is_current === false && (
          <Fact name="Supervisor">of an earlier version; a restart of the VM takes the one of now</Fact>
        )}
        {vm.kept_bytes !== undefined && <Fact name="Kept">{bytes(vm.kept_bytes)} of the ended VM</Fact>}
        {meta.length > 0 && (
          <Fact name="Labels">
            {meta.map(([key, label]) => (
              <div>
                <code>
                  {seen(key)}={seen(label)}
                </code>
              </div>
            ))}
          </Fact>
        )}
      </dl>
      <Raw name="What was asked" of={asked} />
      <Raw name="The launch that was decided" of={vm.decision?.launch} />
      <Raw name="The cage of QEMU" of={takes?.cage} />
      <Raw name="When it is started again" of={restart} />
    </>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}

// All that the API tells of a VM, for a reader who needs more than the page picks out.
export function Raw({ name, of }: { name: string; of: unknown }) {
  if (of === undefined || of === null) return null;
  const text = seenLines(JSON.stringify(of, null, 2));
  return (
    <details>
      <summary>{name}</summary>
      <pre role="region" tabIndex={0} aria-label={name}>
        {text}
      </pre>
    </details>
  );
}
