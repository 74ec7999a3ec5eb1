// A job by form: the keys that most jobs have. What is wrong stands under its field.

import type { ComponentChildren } from "preact";

import { at, portsOf, problemsAt, put, withPorts, type Job } from "../job";
import type { Image, JobProblem } from "../shapes";
import { short } from "../text";
import { Choice, Field } from "./JobField";
import { Ports } from "./Ports";

interface Props {
  job: Job;
  problems: JobProblem[];
  images: Image[];
  change: (job: Job) => void;
  // Fields that come first, and are none of the job's.
  children?: ComponentChildren;
}

const MIB = 1 << 20;

// Places under which the form shows what is wrong.
const SHOWN_AT = [
  "/name",
  "/config/image_source",
  "/config/checksum",
  "/resources/cpus",
  "/resources/memory_mib",
  "/config/disk_bytes",
  "/config/accelerator",
  "/config/egress",
  "/config/firmware",
  "/config/restart/policy",
];

export function hasField(pointer: string): boolean {
  return (
    pointer.startsWith("/config/port_map/") ||
    SHOWN_AT.some((place) => problemsAt([{ pointer, found: "", expected: "" }], place).length > 0)
  );
}

export function JobForm({ job, problems, images, change, children }: Props) {
  const set = (pointer: string, value: string | number | boolean | undefined): void => change(put(job, pointer, value));
  const text = (pointer: string): string => {
    const value = at(job, pointer);
    return value === undefined || value === null ? "" : String(value);
  };
  const number = (of: string): number | undefined => (of === "" ? undefined : Number(of));
  // An image that is stored already is known by its URL, and so is its digest.
  const source = (url: string): void => {
    const known = images.find((image) => image.source === url);
    change(
      put(put(job, "/config/image_source", url), "/config/checksum", known ? known.sha256 : (at(job, "/config/checksum") ?? "")),
    );
  };
  const count = (label: string, pointer: string) => (
    <Field label={label} pointer={pointer} problems={problems}>
      {(props) => (
        <input
          {...props}
          type="number"
          min={1}
          required
          value={text(pointer)}
          onInput={(event) => set(pointer, number(event.currentTarget.value))}
        />
      )}
    </Field>
  );
  const disk = at(job, "/config/disk_bytes");
  return (
    <>
      <div class="fields">
        {children}
        <Field label="Name" pointer="/name" problems={problems}>
          {(props) => (
            <input {...props} required value={text("/name")} onInput={(event) => set("/name", event.currentTarget.value)} />
          )}
        </Field>
        {count("CPUs", "/resources/cpus")}
        {count("Memory in MiB", "/resources/memory_mib")}
        <Field label="Root disk in MiB" pointer="/config/disk_bytes" problems={problems}>
          {(props) => (
            <input
              {...props}
              type="number"
              min={1}
              placeholder="as its image"
              value={typeof disk === "number" ? String(disk / MIB) : ""}
              onInput={(event) => {
                const size = number(event.currentTarget.value);
                set("/config/disk_bytes", size === undefined ? undefined : size * MIB);
              }}
            />
          )}
        </Field>
      </div>
      <div class="fields two">
        <Field label="Image URL" pointer="/config/image_source" problems={problems}>
          {(props) => (
            <input
              {...props}
              type="url"
              required
              list="stored-images"
              placeholder="https://…"
              value={text("/config/image_source")}
              onInput={(event) => source(event.currentTarget.value)}
            />
          )}
        </Field>
        <Field label="SHA-256" pointer="/config/checksum" problems={problems}>
          {(props) => (
            <input
              {...props}
              class="mono"
              required
              spellcheck={false}
              value={text("/config/checksum")}
              onInput={(event) => set("/config/checksum", event.currentTarget.value.trim())}
            />
          )}
        </Field>
        <datalist id="stored-images">
          {images.map((image) => image.source && <option value={image.source}>{short(image.sha256)}</option>)}
        </datalist>
      </div>
      <div class="fields">
        <Choice
          label="Accelerator"
          pointer="/config/accelerator"
          choices={{ "": "policies choose", kvm: "kvm", tcg: "tcg" }}
          {...{ text, set, problems }}
        />
        <Choice
          label="Reaches"
          pointer="/config/egress"
          choices={{ "": "nothing: isolated", internet: "the internet" }}
          {...{ text, set, problems }}
        />
        <Choice
          label="Firmware"
          pointer="/config/firmware"
          choices={{ "": "policies choose", bios: "bios", uefi: "uefi" }}
          {...{ text, set, problems }}
        />
        <Choice
          label="Started again"
          pointer="/config/restart/policy"
          choices={{ "": "never", "on-failure": "when it failed", always: "always" }}
          {...{ text, problems }}
          set={(_, policy) => change(put(job, "/config/restart", policy ? { policy: String(policy) } : undefined))}
        />
      </div>
      <Ports
        ports={portsOf(job)}
        problems={problemsAt(problems, "/config/port_map")}
        change={(ports) => change(withPorts(job, ports))}
      />
      <p class="soft">All other keys, as disks, cloud-init and labels, are written as text.</p>
    </>
  );
}
