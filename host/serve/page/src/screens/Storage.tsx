// Quotas, volumes and images: what is taken, and what is left.

import { all, get } from "../api";
import { useLoaded } from "../loaded";
import { Gauge } from "../parts/Bar";
import { Heading } from "../parts/Heading";
import { Images } from "../parts/Images";
import { Loading, Trouble } from "../parts/Trouble";
import { Volumes } from "../parts/Volumes";
import { to } from "../route";
import type { Host, Image, QuotaUsage, Volume } from "../shapes";
import { bytes, mib, seen } from "../text";

interface Kept {
  quotas: QuotaUsage[];
  volumes: Volume[];
  images: Image[];
  host: Host;
}

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
        <div class="actions">
          <button type="button" onClick={again}>
            Read again
          </button>
        </div>
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
            <h2>
              {tenant ? (
                <>
                  Tenant <a href={`${to("vms")}?tenant=${encodeURIComponent(tenant)}`}>{seen(tenant)}</a>
                </>
              ) : (
                "All tenants together"
              )}
            </h2>
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
