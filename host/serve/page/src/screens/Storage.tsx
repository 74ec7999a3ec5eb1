// Quotas, volumes and images: what is taken, and what is left.

import { all, ask, get, part } from "../api";
import { act } from "../doings";
import { useLoaded } from "../loaded";
import { Heading } from "../parts/Heading";
import { Gauge } from "../parts/Bar";
import { question } from "../parts/Modal";
import { Plain, type Column } from "../parts/Plain";
import { Empty, Loading, Trouble } from "../parts/Trouble";
import { VolumeForm } from "../parts/VolumeForm";
import { to } from "../route";
import { isOperator } from "../session";
import type { Host, Image, QuotaUsage, Volume } from "../shapes";
import { bytes, count, mib, seen, short, time } from "../text";

interface Kept {
  quotas: QuotaUsage[];
  volumes: Volume[];
  images: Image[];
  host: Host;
}

const MIB = 1 << 20;
// A volume of 1 EiB is more than a host has.
const MOST_MIB = 1 << 30;

export function Storage() {
  const { value, problem, again } = useLoaded(async (signal): Promise<Kept> => {
    const [quotas, volumes, images, host] = await Promise.all([
      all<QuotaUsage>("/v1/quotas", "quotas", {}, signal),
      all<Volume>("/v1/volumes", "volumes", {}, signal),
      all<Image>("/v1/images", "images", {}, signal),
      get<Host>("/v1/host", {}, signal),
    ]);
    return { quotas, volumes, images, host };
  }, []);
  return (
    <>
      <div class="title">
        <Heading>Storage and quotas</Heading>
        <div class="actions"><button type="button" onClick={again}>Read again</button></div>
      </div>
      {problem && <Trouble problem={problem} retry={again} />}
      {value ? (
        <>
          <Quotas quotas={value.quotas} free={value.host.free_bytes} />
          <Volumes volumes={value.volumes} changed={again} />
          <Images images={value.images} changed={again} />
        </>
      ) : (
        !problem && <Loading what="quotas, volumes and images" />
      )}
    </>
  );
}

function Quotas({ quotas, free }: { quotas: QuotaUsage[]; free: number | undefined }) {
  return (
    <>
      {quotas.map(({ tenant, used, image_bytes, quota }) => (
        <section class="panel">
          <header>
            <h2>{tenant ? <>Tenant <a href={`${to("vms")}?tenant=${encodeURIComponent(tenant)}`}>{seen(tenant)}</a></> : "All tenants together"}</h2>
            {!tenant && free !== undefined && <p class="soft">{bytes(free)} free on the disk of the state folder</p>}
          </header>
          <div class="gauges">
            <Gauge name="VMs" used={used.vms} limit={quota.vms} shown={(number) => number.toLocaleString("en")} />
            <Gauge name="CPUs" used={used.cpus} limit={quota.cpus} shown={(number) => number.toLocaleString("en")} />
            <Gauge name="Memory" used={used.memory_mib} limit={quota.memory_mib} shown={mib} />
            <Gauge name="Disks and volumes" used={used.disk_bytes} limit={quota.disk_bytes} shown={bytes} />
            <Gauge name="Ports" used={used.ports} limit={quota.ports} shown={(number) => number.toLocaleString("en")} />
            <Gauge name="Images" used={image_bytes} limit={quota.image_bytes} shown={bytes} />
          </div>
        </section>
      ))}
    </>
  );
}

function place({ tenant, name }: Volume): [string, { tenant: string | undefined }] {
  // A tenant's caller means itself.
  return [`/v1/volumes/${part(name)}`, { tenant: isOperator.value ? tenant : undefined }];
}

function Volumes({ volumes, changed }: { volumes: Volume[]; changed: () => void }) {
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
    { head: "Filled", cell: ({ disk_usage, bytes: size }) => <Gauge name="Filled" used={disk_usage} limit={size} shown={bytes} isBare /> },
    { head: "Written", cell: ({ written_at }) => <time dateTime={written_at}>{time(written_at)}</time> },
    { head: "In use", cell: ({ in_use }) => (in_use ? "by a VM or a command" : "no") },
    {
      head: "",
      cell: (volume) => (
        <div class="actions">
          <button type="button" disabled={volume.in_use} aria-label={`Enlarge ${seen(volume.name)}`} onClick={() => void enlarge(volume)}>Enlarge…</button>
          <button type="button" class="danger" disabled={volume.in_use} aria-label={`Remove ${seen(volume.name)}`} onClick={() => void remove(volume)}>Remove…</button>
        </div>
      ),
    },
  ];
  return (
    <section class="panel">
      <header>
        <h2>Volumes</h2>
        <p class="soft">{count(volumes.length, "volume")}, {bytes(volumes.reduce((sum, { disk_usage }) => sum + disk_usage, 0))} on disk</p>
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

function Images({ images, changed }: { images: Image[]; changed: () => void }) {
  const remove = async ({ sha256, source }: Image): Promise<void> => {
    const answer = await question({
      title: `Remove the image ${short(sha256)}?`,
      text: `A start that needs it fetches it again${source ? ` from ${seen(source)}` : ""}. Where a VM uses it, it stays.`,
      action: "Remove",
      isDanger: true,
    });
    if (!answer) return;
    await act(`Remove image ${short(sha256)}`, () => ask(`/v1/images/${part(sha256)}`, { method: "DELETE" }));
    changed();
  };
  const columns: Column<Image>[] = [
    { head: "Image", cell: ({ sha256 }) => <code title={sha256}>{short(sha256)}</code> },
    { head: "From", kind: "long", cell: ({ source }) => seen(source ?? "–") },
    { head: "Format", cell: ({ format }) => seen(format ?? "–") },
    { head: "On disk", kind: "number", cell: ({ disk_usage }) => bytes(disk_usage) },
    { head: "Fetched", cell: ({ fetched_at }) => (fetched_at ? <time dateTime={fetched_at}>{time(fetched_at)}</time> : "–") },
  ];
  if (isOperator.value) {
    columns.push(
      { head: "Fetched for", cell: ({ tenant }) => (tenant ? seen(tenant) : "the operator") },
      { head: "", cell: (image) => <button type="button" class="danger" aria-label={`Remove image ${short(image.sha256)}`} onClick={() => void remove(image)}>Remove…</button> },
    );
  }
  return (
    <section class="panel">
      <header>
        <h2>Images</h2>
        <p class="soft">{count(images.length, "image")}, {bytes(images.reduce((sum, { disk_usage }) => sum + disk_usage, 0))} on disk</p>
      </header>
      {images.length > 0 ? (
        <Plain caption="Images" columns={columns} items={images} keyOf={({ sha256 }) => sha256} />
      ) : (
        <Empty>No image is stored. A <a href={to("start")}>start</a> fetches the one that its job names, and checks it.</Empty>
      )}
    </section>
  );
}

