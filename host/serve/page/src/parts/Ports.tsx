// A job's forwarded ports.

import type { ComponentChildren } from "preact";

import { problemsAt, type Port } from "../job";
import type { JobProblem } from "../shapes";
import { seen } from "../text";
import { Wrong } from "./JobField";

export function Ports({ ports, problems, change }: { ports: Port[]; problems: JobProblem[]; change: (ports: Port[]) => void }) {
  const edit = (index: number, to: Partial<Port>): void =>
    change(ports.map((port, at) => (at === index ? { ...port, ...to } : port)));
  const number = (text: string): number | undefined => (text === "" ? undefined : Number(text));
  const fresh = (): string =>
    ["http", "ssh", ...Array.from({ length: 99 }, (_, index) => `port-${index + 1}`)].find((label) =>
      ports.every((port) => port.label !== label),
    ) ?? "";
  return (
    <fieldset>
      <legend>Ports</legend>
      <div class="lines">
        {ports.map((port, index) => {
          const own = problemsAt(problems, `/config/port_map/${port.label}`);
          return (
            <div class="line" role="group" aria-label={`Port ${seen(port.label)}`}>
              <PortField name="Label" index={index}>
                {(id) => (
                  <input
                    id={id}
                    size={8}
                    value={port.label}
                    onChange={(event) => edit(index, { label: event.currentTarget.value })}
                  />
                )}
              </PortField>
              <PortField name="Guest port" index={index}>
                {(id) => (
                  <input
                    id={id}
                    type="number"
                    min={1}
                    max={65535}
                    value={port.guest ?? ""}
                    aria-invalid={own.length > 0 ? "true" : undefined}
                    onInput={(event) => edit(index, { guest: number(event.currentTarget.value) })}
                  />
                )}
              </PortField>
              <PortField name="Host port" index={index}>
                {(id) => (
                  <input
                    id={id}
                    type="number"
                    placeholder="picked"
                    min={1}
                    max={65535}
                    value={port.host ?? ""}
                    onInput={(event) => edit(index, { host: number(event.currentTarget.value) })}
                  />
                )}
              </PortField>
              <PortField name="Protocol" index={index}>
                {(id) => (
                  <select
                    id={id}
                    value={port.protocol}
                    onChange={(event) => edit(index, { protocol: event.currentTarget.value })}
                  >
                    <option>tcp</option>
                    <option>udp</option>
                  </select>
                )}
              </PortField>
              <button
                type="button"
                aria-label={`Take out port ${seen(port.label)}`}
                onClick={() => change(ports.filter((_, at) => at !== index))}
              >
                Take out
              </button>
              {own.length > 0 && <Wrong problems={own} />}
            </div>
          );
        })}
        <div>
          <button
            type="button"
            onClick={() => change([...ports, { label: fresh(), guest: undefined, host: undefined, protocol: "tcp" }])}
          >
            Add a port
          </button>
        </div>
      </div>
    </fieldset>
  );
}

function PortField({ name, index, children }: { name: string; index: number; children: (id: string) => ComponentChildren }) {
  const id = `port-${index}-${name.toLowerCase().replaceAll(" ", "-")}`;
  return (
    <div class="field">
      <label for={id}>{name}</label>
      {children(id)}
    </div>
  );
}
