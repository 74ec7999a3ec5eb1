// A new volume.

import { useState } from "preact/hooks";

import { ask, part, Problem } from "../api";
import { act } from "../doings";
import { isOperator } from "../session";
import { Submit } from "./Submit";

const MIB = 1 << 20;

export const VOLUME_NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]*";
export const VOLUME_NAME_WORDS = "letters, digits, ., - and _, of which the first is a letter or a digit";

export function VolumeForm({ changed }: { changed: () => void }) {
  const [problem, setProblem] = useState<Problem | undefined>();
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const told = new FormData(form);
    const text = (name: string): string => String(told.get(name) ?? "").trim();
    setProblem(undefined);
    const query = { tenant: text("tenant"), bytes: Number(text("size")) * MIB };
    const name = text("name");
    const done = await act(`Create ${name}`, () => ask(`/v1/volumes/${part(name)}`, { method: "PUT", query }), setProblem);
    if (!done) return;
    form.reset();
    changed();
  };
  return (
    <form class="fields" aria-label="A new volume" onSubmit={(event) => void submit(event)}>
      <div class="field">
        <label for="volume-name">New volume</label>
        <input
          id="volume-name"
          name="name"
          required
          pattern={VOLUME_NAME}
          title={VOLUME_NAME_WORDS}
        />
      </div>
      <div class="field">
        <label for="volume-size">Size in MiB</label>
        <input id="volume-size" name="size" type="number" min={1} required defaultValue="1024" />
      </div>
      {isOperator.value && (
        <div class="field">
          <label for="volume-tenant">Tenant</label>
          <input id="volume-tenant" name="tenant" placeholder="default" />
        </div>
      )}
      <Submit action="Create" problem={problem} />
    </form>
  );
}
