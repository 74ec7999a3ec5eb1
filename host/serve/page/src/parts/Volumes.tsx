// Volumes: how full they are, and what is done with them.

import { ask, part, post } from "../api";
import { act, operate } from "../doings";
import { isOperator } from "../session";
import type { Operation, Volume } from "../shapes";
import { bytes, count, seen, time } from "../text";
import { Gauge } from "./Bar";
import { question } from "./Modal";
import { Plain, type Column } from "./Plain";
import { Empty } from "./Trouble";
import { VOLUME_NAME, VOLUME_NAME_WORDS, VolumeForm } from "./VolumeForm";

const MIB = 1 << 20;
// A volume of 1 EiB is more than a host has.
const MOST_MIB = 1 << 30;

function place({ tenant, name }: Volume): [string, { tenant: string | undefined }] {
  // A tenant's caller means itself.
  return [`/v1/volumes/${part(name)}`, { tenant: isOperator.value ? tenant : undefined }];
}

export function Volumes({ volumes, changed }: { volumes: Volume[]; changed: () => void }) {
  const enlarge = async (volume: Volume): Promise<void> => {
    const answer = await question({
      title: `Enlarge ${seen(volume.name)}`,
      text: `It has ${bytes(volume.bytes)}. A volume cannot be made smaller; the guest enlarges its file system itself.`,
      action: "Enlarge",
      number: { label: "New size in MiB", min: volume.bytes / MIB, max: MOST_MIB, value: volume.bytes / MIB },
    });
    if (answer?.number === undefined) return;
    const [path, query] = place(volume);
    const size = answer.number * MIB;
    await act(`Enlarge ${volume.name}`, () => ask(`${path}/resize`, { method: "POST", query: { ...query, bytes: size } }));
    changed();
  };
  const copy = async (volume: Volume): Promise<void> => {
    const answer = await question({
      title: `Copy ${seen(volume.name)}`,
      text: volume.in_use
        ? "A VM has it: its guest's file systems are frozen by the guest's agent while they are copied."
        : "All that is on it is copied.",
      action: "Copy",
      name: { label: "The copy's name", pattern: VOLUME_NAME, expected: VOLUME_NAME_WORDS },
    });
    if (!answer?.name) return;
    const [path, query] = place(volume);
    const to = answer.name;
    await operate(`Copy ${volume.name}`, () => post<Operation>(`${path}/copy`, { query: { ...query, to } }));
    changed();
  };
  const remove = async (volume: Volume): Promise<void> => {
    const answer = await question({
      title: `Remove the volume ${seen(volume.name)}?`,
      text: `All that is on it is lost: ${bytes(volume.disk_usage)}, last written ${time(volume.written_at)}.`,
      action: "Remove",
      isDanger: true,
    });
    if (!answer) return;
    const [path, query] = place(volume);
    await act(`Remove ${volume.name}`, () => ask(path, { method: "DELETE", query }));
    changed();
  };
  const columns: Column<Volume>[] = [
    { head: "Volume", cell: ({ name }) => <b>{seen(name)}</b> },
    { head: "Tenant", cell: ({ tenant }) => seen(tenant) },
    {
      head: "Filled",
      cell: ({ disk_usage, bytes: size }) => <Gauge name="Filled" used={disk_usage} limit={size} shown={bytes} isBare />,
    },
    { head: "Written", cell: ({ written_at }) => <time dateTime={written_at}>{time(written_at)}</time> },
    { head: "In use", cell: ({ in_use }) => (in_use ? "by a VM or a command" : "no") },
    {
      head: "",
      cell: (volume) => (
        <div class="actions">
          <button type="button" aria-label={`Copy ${seen(volume.name)}`} onClick={() => void copy(volume)}>
            Copy…
          </button>
          <button
            type="button"
            disabled={volume.in_use}
            aria-label={`Enlarge ${seen(volume.name)}`}
            onClick={() => void enlarge(volume)}
          >
            Enlarge…
          </button>
          <button
            type="button"
            class="danger"
            disabled={volume.in_use}
            aria-label={`Remove ${seen(volume.name)}`}
            onClick={() => void remove(volume)}
          >
            Remove…
          </button>
        </div>
      ),
    },
  ];
  return (
    <section class="panel">
      <header>
        <h2>Volumes</h2>
        <p class="soft">
          {count(volumes.length, "volume")}, {bytes(volumes.reduce((sum, { disk_usage }) => sum + disk_usage, 0))} on disk
        </p>
      </header>
      {volumes.length > 0 ? (
        <Plain caption="Volumes" columns={columns} items={volumes} keyOf={({ tenant, name }) => `${tenant}/${name}`} />
      ) : (
        <Empty>No volume is here. Create one, and name it in a job's disks.</Empty>
      )}
      <VolumeForm changed={changed} />
    </section>
  );
}
