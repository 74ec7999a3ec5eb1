// An image that is fetched without a VM.

import { useState } from "preact/hooks";

import { post, Problem } from "../api";
import { operate } from "../doings";
import type { Operation } from "../shapes";
import { Submit } from "./Submit";

export function ImageForm({ changed }: { changed: () => void }) {
  const [problem, setProblem] = useState<Problem | undefined>();
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const told = new FormData(form);
    const text = (name: string): string => String(told.get(name) ?? "").trim();
    setProblem(undefined);
    const body = JSON.stringify({ sources: [text("source")], checksum: text("checksum") });
    const headers = { "content-type": "application/json" };
    const done = await operate("Fetch an image", () => post<Operation>("/v1/images", { body, headers }), setProblem);
    if (!done) return;
    form.reset();
    changed();
  };
  return (
    <form class="fields" aria-label="An image to fetch" onSubmit={(event) => void submit(event)}>
      <div class="field">
        <label for="image-source">Fetch an image from</label>
        <input id="image-source" name="source" type="url" required placeholder="https://" />
      </div>
      <div class="field">
        <label for="image-checksum">Checksum</label>
        <input id="image-checksum" name="checksum" required placeholder="sha256:" autocomplete="off" spellcheck={false} />
      </div>
      <Submit action="Fetch" problem={problem} />
    </form>
  );
}
